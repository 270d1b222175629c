//! IPv6: extension headers of every kind and length, fragments, other sources and destinations.

use super::{Build, v6_frame};
use crate::frame::protocol::{DESTINATION, FRAGMENT, HOP_BY_HOP, NONE, ROUTING};
use crate::frame::{Extension, Ipv6, Tcp, filler_options, fragment_header, routing_header};
use crate::net::{CLIENT_LINK_LOCAL, SERVER_LINK_LOCAL, SERVER_OTHER};
use std::net::Ipv6Addr;

pub(super) fn cases(build: &mut Build) {
    extensions(build);
    fields(build);
    fragments(build);
    addresses(build);
}

fn extensions(build: &mut Build) {
    let options = |kind: u8, length: usize| (kind, filler_options(length));
    let chains: Vec<(&str, Vec<Extension>)> = vec![
        ("hop-by-hop options", vec![options(HOP_BY_HOP, 8)]),
        ("hop-by-hop options of 256 bytes", vec![options(HOP_BY_HOP, 256)]),
        ("destination options", vec![options(DESTINATION, 8)]),
        ("2 destination options", vec![options(DESTINATION, 8); 2]),
        ("8 destination options", vec![options(DESTINATION, 8); 8]),
        ("100 destination options", vec![options(DESTINATION, 8); 100]),
        ("130 destination options", vec![options(DESTINATION, 8); 130]),
        ("destination options of 64 bytes", vec![options(DESTINATION, 64)]),
        ("destination options of 1400 bytes", vec![options(DESTINATION, 1400)]),
        ("routing type 0, none left", vec![(ROUTING, routing_header(0))]),
        ("routing type 4, none left", vec![(ROUTING, routing_header(4))]),
        ("routing type 253, none left", vec![(ROUTING, routing_header(253))]),
        ("hop-by-hop, destination", vec![options(HOP_BY_HOP, 8), options(DESTINATION, 16)]),
        (
            "hop-by-hop, destination, routing, destination",
            vec![
                options(HOP_BY_HOP, 8),
                options(DESTINATION, 8),
                (ROUTING, routing_header(253)),
                options(DESTINATION, 8),
            ],
        ),
        ("hop-by-hop after destination", vec![options(DESTINATION, 8), options(HOP_BY_HOP, 8)]),
        ("hop-by-hop router alert", vec![(HOP_BY_HOP, vec![0, 0, 5, 2, 0, 0, 1, 0])]),
        ("unknown option, skip", vec![(DESTINATION, vec![0, 0, 0x1e, 4, 0, 0, 0, 22])]),
        ("unknown option, discard", vec![(DESTINATION, vec![0, 0, 0x5e, 4, 0, 0, 0, 22])]),
        ("atomic fragment", vec![(FRAGMENT, fragment_header(0, false, 7))]),
        ("destination, atomic fragment", vec![options(DESTINATION, 8), (FRAGMENT, fragment_header(0, false, 8))]),
        ("atomic fragment, destination", vec![(FRAGMENT, fragment_header(0, false, 9)), options(DESTINATION, 8)]),
        ("hop-by-hop, atomic fragment", vec![options(HOP_BY_HOP, 8), (FRAGMENT, fragment_header(0, false, 10))]),
        (
            "2 atomic fragments",
            vec![(FRAGMENT, fragment_header(0, false, 11)), (FRAGMENT, fragment_header(0, false, 12))],
        ),
        ("header length beyond the packet", vec![(DESTINATION, vec![0, 255, 1, 4, 0, 0, 0, 0])]),
        (
            "authentication header",
            vec![(51, vec![0, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])],
        ),
        ("encrypted payload", vec![(50, vec![0; 8])]),
        ("mobility header", vec![(135, vec![0; 8])]),
        ("no next header", vec![(NONE, vec![0; 8])]),
        ("next header 253", vec![(253, vec![0; 8])]),
    ];
    for (name, chain) in chains {
        build.v6(format!("IPv6 {name}"), |ip, _| ip.extensions = chain);
    }
    build.v6("IPv6 options that imitate a TCP header to port 80", |ip, tcp| {
        let fake = Tcp::syn(tcp.source, 80).segment(ip.source.into(), ip.destination.into());
        ip.extensions = vec![(DESTINATION, [&[0, 3, 0x1e, 28][..], &fake[4..24], &[0; 8]].concat())];
    });
}

fn fields(build: &mut Build) {
    build.v6("IPv6 traffic class 0xff", |ip, _| ip.class = 0xff);
    build.v6("IPv6 flow label", |ip, _| ip.flow = 0xf_ffff);
    build.v6("IPv6 hop limit 1", |ip, _| ip.hops = 1);
    build.v6("IPv6 version 4 in an IPv6 frame", |ip, _| ip.version = 4);
    build.v6("IPv6 payload length beyond the frame", |ip, _| ip.length = Some(300));
    build.v6("IPv6 payload length 0", |ip, _| ip.length = Some(0));
}

/// Names the fragments' starts, the headers before and behind the fragment header, and the order.
struct Cut {
    name: &'static str,
    starts: &'static [usize],
    outer: &'static [u8],
    inner: &'static [u8],
    arrange: fn(&mut Vec<Vec<u8>>),
}

fn fragments(build: &mut Build) {
    let plain: fn(&mut Vec<Vec<u8>>) = |_| {};
    let cuts = [
        Cut { name: "two fragments, 24 bytes first", starts: &[0, 24], outer: &[], inner: &[], arrange: plain },
        Cut { name: "two fragments, 8 bytes first", starts: &[0, 8], outer: &[], inner: &[], arrange: plain },
        Cut {
            name: "fragments in reverse order",
            starts: &[0, 24, 32],
            outer: &[],
            inner: &[],
            arrange: |f| f.reverse(),
        },
        Cut {
            name: "fragments, then destination options",
            starts: &[0, 32],
            outer: &[],
            inner: &[DESTINATION],
            arrange: plain,
        },
        Cut {
            name: "fragments cut inside the options",
            starts: &[0, 8],
            outer: &[],
            inner: &[DESTINATION, DESTINATION],
            arrange: plain,
        },
        Cut {
            name: "hop-by-hop, fragments reversed, destination options",
            starts: &[0, 32],
            outer: &[HOP_BY_HOP],
            inner: &[DESTINATION],
            arrange: |f| f.reverse(),
        },
        Cut {
            name: "fragments, the last one missing",
            starts: &[0, 24],
            outer: &[],
            inner: &[],
            arrange: |f| f.truncate(1),
        },
    ];
    for cut in cuts {
        let tcp = Tcp { payload: vec![0x41; 24], ..build.syn() };
        let headers = |kinds: &[u8]| kinds.iter().map(|kind| (*kind, filler_options(8))).collect::<Vec<_>>();
        let ip = Ipv6 { extensions: headers(cut.outer), ..build.ipv6() };
        let segment = build.transport.segment(&tcp, ip.source.into(), ip.destination.into());
        let pieces =
            ip.fragments(&headers(cut.inner), build.transport.number(), &segment, cut.starts, tcp.source.into());
        let mut frames: Vec<_> = pieces.iter().map(|packet| v6_frame(packet)).collect();
        (cut.arrange)(&mut frames);
        build.push(format!("IPv6 {}", cut.name), (ip.source.into(), tcp.source), frames);
    }
}

fn addresses(build: &mut Build) {
    let mapped = build.client.v4.to_ipv6_mapped();
    build.v6("IPv6 from a v4-mapped address", |ip, _| ip.source = mapped);
    build.v6("IPv6 from ::1", |ip, _| ip.source = Ipv6Addr::LOCALHOST);
    build.v6("IPv6 to an address of another interface", |ip, _| ip.destination = SERVER_OTHER.v6);
    build.v6("IPv6 link-local to link-local", |ip, _| {
        ip.source = CLIENT_LINK_LOCAL;
        ip.destination = SERVER_LINK_LOCAL;
    });
    build.v6("IPv6 link-local to global", |ip, _| ip.source = CLIENT_LINK_LOCAL);
    build.v6("IPv6 global to link-local", |ip, _| ip.destination = SERVER_LINK_LOCAL);
    build.v6("IPv6 to ff02::1", |ip, _| ip.destination = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));
    build.v6("IPv6 to ::1", |ip, _| ip.destination = Ipv6Addr::LOCALHOST);
}
