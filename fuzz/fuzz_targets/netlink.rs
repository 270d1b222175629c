//! What the kernel answers over netlink: any datagram is read to its end or refused, and what is read is what stands there.
//!
//! The first byte chooses the protocol, the rest is one datagram. Only the kernel sends these, so this is about kernels that are
//! newer or stranger than those we know.
//!
//! `cargo fuzz run netlink`
#![no_main]

mod links_twin;

use std::any::TypeId;
use std::cell::Cell;
use std::net::IpAddr;
use std::panic;
use std::sync::Once;

use libfuzzer_sys::fuzz_target;
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_sock_diag::SockDiagMessage;
use postern_agent::config::PrefilterConfig;
use postern_agent::system::links::LinkState;
use postern_agent::system::netlink::{Socket, take};
use postern_agent::system::translations::read;

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;

fuzz_target!(|input: &[u8]| match input.split_first() {
    Some((b's', datagram)) => sockets(datagram),
    Some((b'r', datagram)) => routes(datagram),
    Some((b't', datagram)) => translations(datagram),
    _ => {}
});

/// Each message of a datagram with its own bytes, as far as it can be read.
fn messages<M: netlink_packet_core::NetlinkDeserializable + 'static>(
    datagram: &[u8],
) -> Vec<(&[u8], NetlinkPayload<M>)> {
    let (mut rest, mut found) = (datagram.to_vec(), Vec::new());
    while !rest.is_empty() {
        let before = rest.len();
        let Some(payload) = parse::<M>(&mut rest) else { break };
        let used = before - rest.len();
        assert!(used >= HEADER, "{used} bytes are no message");
        assert_eq!(used, length(&datagram[datagram.len() - before..]).next_multiple_of(4).min(before), "cut elsewhere");
        assert!(datagram.ends_with(&rest), "the rest is another one");
        let start = datagram.len() - before;
        found.push((&datagram[start..start + used], payload));
    }
    found
}

thread_local! {
    /// Whether the library's reader of rtnetlink is at work.
    static IN_LIBRARY: Cell<bool> = const { Cell::new(false) };
}

/// Takes one message. The library's reader of rtnetlink panics on attributes of some device kinds (bareudp) whose length no kernel
/// sends. In posternd, such a panic ends rtnetlink's task and `links::follow` starts again, so it counts as a refusal here. Sockets are
/// read in the engine's thread, where a panic counts as a find.
fn parse<M: netlink_packet_core::NetlinkDeserializable + 'static>(rest: &mut Vec<u8>) -> Option<NetlinkPayload<M>> {
    if TypeId::of::<M>() != TypeId::of::<RouteNetlinkMessage>() {
        return take::<M>(rest).ok();
    }
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let abort = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !IN_LIBRARY.get() {
                abort(info);
            }
        }));
    });
    IN_LIBRARY.set(true);
    let payload = panic::catch_unwind(panic::AssertUnwindSafe(|| take::<M>(rest)));
    IN_LIBRARY.set(false);
    payload.ok()?.ok()
}

/// The first field of `struct nlmsghdr`.
fn length(message: &[u8]) -> usize {
    message[..4].iter().rev().fold(0, |length, byte| length * 256 + usize::from(*byte))
}

/// Rules are read to an end, whatever they are; what is read of one is no more than what stands there.
fn translations(datagram: &[u8]) {
    let mut read = 0;
    for (_, payload) in read::messages(datagram) {
        read += HEADER + payload.len();
        let said = read::translation(payload).unwrap_or_default();
        assert!(said.len() <= payload.len() + "writes into packets in table ".len(), "{said}");
        let _ =
            (read::is_plain_local(payload), read::classified(payload), read::generation(payload), read::errno(payload));
    }
    assert!(read <= datagram.len());
}

fn sockets(datagram: &[u8]) {
    for (bytes, payload) in messages::<SockDiagMessage>(datagram) {
        let NetlinkPayload::InnerMessage(message) = payload else { continue };
        let Some(socket) = Socket::of(message) else { continue };
        let told = (socket.family, socket.id.source_port, socket.id.destination_port);
        let addresses = (socket.id.source_address, socket.id.destination_address);
        assert_eq!(Some((told, addresses, socket.cookie())), twin(&bytes[HEADER..]));
    }
}

type Told = ((u8, u16, u16), (IpAddr, IpAddr), u64);

/// `struct inet_diag_msg` of linux/inet_diag.h by its offsets: family 0, ports 4 and 6, addresses 8 and 24, cookie 44.
fn twin(bytes: &[u8]) -> Option<Told> {
    let family = *bytes.first()?;
    let port = |at: usize| Some(u16::from(*bytes.get(at)?) * 256 + u16::from(*bytes.get(at + 1)?));
    let address = |at: usize| match family {
        2 => <[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok().map(IpAddr::from),
        10 => <[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok().map(IpAddr::from),
        _ => None,
    };
    let cookie = u64::from_le_bytes(bytes.get(44..52)?.try_into().ok()?);
    Some(((family, port(4)?, port(6)?), (address(8)?, address(24)?), cookie))
}

fn routes(datagram: &[u8]) {
    let (mut links, mut addresses, mut routes) = (Vec::new(), Vec::new(), Vec::new());
    let mut read = Vec::new();
    for (bytes, payload) in messages::<RouteNetlinkMessage>(datagram) {
        let NetlinkPayload::InnerMessage(message) = payload else { continue };
        read.push((u16::from_le_bytes([bytes[4], bytes[5]]), &bytes[HEADER..length(bytes)]));
        match message {
            RouteNetlinkMessage::NewLink(link) => links.push(link),
            RouteNetlinkMessage::NewAddress(address) => addresses.push(address),
            RouteNetlinkMessage::NewRoute(route) => routes.push(route),
            _ => {}
        }
    }
    let state = LinkState::of(&links, &addresses, &routes);
    assert_eq!(state, links_twin::state(&read));
    let ethernet = |index: u32| state.links.iter().any(|link| link.index == index && link.ethernet);
    let auto = PrefilterConfig::Auto.targets(&state);
    let all = PrefilterConfig::List(state.links.iter().map(|link| link.name.clone()).collect()).targets(&state);
    assert!(all.iter().all(|(index, _)| ethernet(*index)), "a prefilter on a device without an Ethernet header");
    assert!(auto.iter().all(|target| all.contains(target)), "a prefilter that no list could ask for");
    assert!(PrefilterConfig::Off.targets(&state).is_empty());
}
