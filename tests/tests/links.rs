//! The host's interfaces and addresses, as the kernel tells of them, in a namespace of the test's own.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use postern_agent::config::PrefilterConfig;
use postern_agent::system::links::{Link, LinkState, Watch};
use postern_tests::netns::Netns;
use tokio::runtime::Builder;
use tokio::time::timeout;

/// The most time until a change is reported.
const PATIENCE: Duration = Duration::from_secs(5);

/// The first reported state that `is_right`.
async fn until(watch: &mut Watch, what: &str, is_right: impl Fn(&LinkState) -> bool) -> LinkState {
    let started = Instant::now();
    let mut last = None;
    let found = timeout(PATIENCE, async {
        loop {
            let state = watch.next().await.unwrap().expect("a connection");
            if is_right(&state) {
                return state;
            }
            last = Some(state);
        }
    });
    let found = found.await;
    println!("{what}: reported after {:?}", started.elapsed());
    found.unwrap_or_else(|_| panic!("{what}; last: {last:?}"))
}

fn link<'a>(state: &'a LinkState, name: &str) -> Option<&'a Link> {
    state.links.iter().find(|link| link.name == name)
}

fn prefilters(state: &LinkState) -> Vec<String> {
    PrefilterConfig::Auto.targets(state).into_iter().map(|(_, name)| name).collect()
}

#[test]
fn changes_of_devices_are_reported_and_choose_the_prefilters() {
    let host = Netns::new();
    host.run(|| {
        Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let mut watch = Watch::open().unwrap();
            let first = watch.next().await.unwrap().unwrap();
            assert!(!link(&first, "lo").unwrap().ethernet);
            assert!(first.addresses.contains(&"127.0.0.1".parse::<IpAddr>().unwrap()));
            assert!(prefilters(&first).is_empty());

            host.ip("link add up0 type veth peer name far0\nlink set up0 up\nlink set far0 up");
            let state = until(&mut watch, "a veth pair", |s| link(s, "up0").is_some() && link(s, "far0").is_some()).await;
            assert!(prefilters(&state).is_empty(), "{state:?}");

            host.ip("addr add 192.0.2.1/24 dev up0\naddr add 2001:db8::1/64 dev up0 nodad");
            let new: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
            until(&mut watch, "addresses", |s| new.iter().all(|address| s.addresses.contains(address))).await;

            host.ip("route add default via 192.0.2.254");
            let state = until(&mut watch, "a default route", |s| link(s, "up0").unwrap().default_route).await;
            assert_eq!(prefilters(&state), ["up0"]);

            host.ip("route del default\nlink add mac0 link up0 type macvlan\nlink add br0 type bridge\nlink set far0 master br0");
            let state = until(&mut watch, "a macvlan, a bridge", |s| {
                link(s, "mac0").is_some() && link(s, "far0").is_some_and(|l| l.controller.is_some())
            });
            let state = state.await;
            assert_eq!(link(&state, "mac0").unwrap().below, Some(link(&state, "up0").unwrap().index));
            assert_eq!(link(&state, "far0").unwrap().controller, Some(link(&state, "br0").unwrap().index));
            assert!(prefilters(&state).is_empty(), "{state:?}");

            host.ip("link del up0");
            until(&mut watch, "the pair's end", |s| link(s, "up0").is_none() && !s.addresses.contains(&new[0])).await;
        });
    });
}

#[test]
fn events_that_change_nothing_are_not_reported() {
    let host = Netns::new();
    host.run(|| {
        Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let mut watch = Watch::open().unwrap();
            let first = watch.next().await.unwrap().unwrap();
            // Hundreds of events, among them routes, that leave everything as it was.
            let churn =
                "link add d0 type veth peer name e0\nlink set d0 up\naddr add 192.0.2.1/24 dev d0\nlink del d0\n"
                    .repeat(50);
            host.ip(&churn);
            host.ip("link add last0 type veth peer name last1");
            let state =
                until(&mut watch, "the last one", |s| link(s, "last0").is_some() && link(s, "last1").is_some()).await;
            assert_eq!(state.links.len(), first.links.len() + 2);
            let nothing = timeout(Duration::from_millis(200), watch.next()).await;
            assert!(nothing.is_err(), "reported although nothing changed: {nothing:?}");
        });
    });
}
