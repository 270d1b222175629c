//! IPv4: header lengths, options, wrong lengths, fragments, other destinations.

use super::{Build, v4_frame};
use crate::frame::{Ipv4, Tcp, VLAN, tagged};
use crate::net::SERVER_OTHER;
use std::net::Ipv4Addr;

pub(super) fn cases(build: &mut Build) {
    options(build);
    fields(build);
    fragments(build);
    build.v4("to an address of another interface", |ip, _| ip.destination = SERVER_OTHER.v4);
    build.v4("to 127.0.0.1", |ip, _| ip.destination = Ipv4Addr::LOCALHOST);
    build.v4("to the subnet's broadcast", |ip, _| ip.destination = Ipv4Addr::new(10, 1, 255, 255));
    build.v4("to 224.0.0.1", |ip, _| ip.destination = Ipv4Addr::new(224, 0, 0, 1));
}

fn options(build: &mut Build) {
    for words in 6..=15 {
        build.v4(format!("header of {words} words of NOP"), |ip, _| ip.options = vec![1; (words - 5) * 4]);
    }
    let named: [(&str, &[u8]); 9] = [
        ("end of options", &[0, 0, 0, 0]),
        ("record route, empty", &[7, 7, 4, 0, 0, 0, 0, 0]),
        ("record route, full", &[7, 7, 8, 10, 1, 0, 2, 0]),
        ("router alert", &[0x94, 4, 0, 0]),
        ("time stamp", &[0x44, 8, 5, 0, 0, 0, 0, 0]),
        ("stream id", &[0x88, 4, 0, 1]),
        ("unknown option 0x9e", &[0x9e, 4, 1, 2]),
        ("loose source route, finished", &[0x83, 7, 8, 10, 1, 0, 1, 0]),
        ("strict source route, finished", &[0x89, 7, 8, 10, 1, 0, 1, 0]),
    ];
    for (name, bytes) in named {
        build.v4(format!("option: {name}"), |ip, _| ip.options = bytes.to_vec());
    }
    // A parser that takes the header to be 20 bytes reads port 80 in these.
    build.v4("options that imitate a TCP header to port 80", |ip, tcp| {
        let fake = Tcp::syn(tcp.source, 80).segment(ip.source.into(), ip.destination.into());
        ip.options = [&[0x9e, 24][..], &fake[2..24]].concat();
    });
    build.v4("options that imitate the end of one and port 80", |ip, _| ip.options = vec![1, 1, 0, 80, 0, 0, 0, 0]);
}

fn fields(build: &mut Build) {
    build.v4("don't fragment", |ip, _| ip.fragment = 0x4000);
    build.v4("reserved flag", |ip, _| ip.fragment = 0x8000);
    build.v4("time to live 1", |ip, _| ip.ttl = 1);
    build.v4("time to live 255", |ip, _| ip.ttl = 255);
    build.v4("type of service 0xff", |ip, _| ip.service = 0xff);
    build.v4("identification 0", |ip, _| ip.id = 0);
    build.v4("header of 4 words", |ip, _| ip.words = Some(4));
    build.v4("version 5", |ip, _| ip.version = 5);
    build.v4("version 6 in an IPv4 frame", |ip, _| ip.version = 6);
    build.v4("total length beyond the frame", |ip, _| ip.length = Some(200));
    build.v4("total length cuts the TCP header", |ip, _| ip.length = Some(30));
    build.v4("protocol UDP-Lite", |ip, _| ip.protocol = 136);
    build.v4("protocol SCTP", |ip, _| ip.protocol = 132);
}

/// Names the fragments' starts, the options and how the frames are changed on the way.
struct Cut {
    name: &'static str,
    starts: &'static [usize],
    options: &'static [u8],
    arrange: fn(&mut Vec<Vec<u8>>),
}

fn fragments(build: &mut Build) {
    let plain: fn(&mut Vec<Vec<u8>>) = |_| {};
    let tag: fn(&mut Vec<Vec<u8>>) = |frames| frames.iter_mut().for_each(|frame| *frame = tagged(frame, &[(VLAN, 0)]));
    let again: fn(&mut Vec<Vec<u8>>) = |frames| frames.insert(1, frames[0].clone());
    let cuts = [
        Cut { name: "two fragments, 24 bytes first", starts: &[0, 24], options: &[], arrange: plain },
        Cut { name: "two fragments, 16 bytes first", starts: &[0, 16], options: &[], arrange: plain },
        Cut { name: "two fragments, 8 bytes first", starts: &[0, 8], options: &[], arrange: plain },
        Cut { name: "a fragment every 8 bytes", starts: &[0, 8, 16, 24, 32, 40], options: &[], arrange: plain },
        Cut { name: "fragments in reverse order", starts: &[0, 8, 16], options: &[], arrange: |f| f.reverse() },
        Cut {
            name: "fragments with the last first",
            starts: &[0, 8, 16],
            options: &[],
            arrange: |f| f.rotate_right(1),
        },
        Cut { name: "fragments with options", starts: &[0, 8], options: &[0x94, 4, 0, 0], arrange: plain },
        Cut { name: "fragments with NOP options", starts: &[0, 16], options: &[1; 40], arrange: |f| f.reverse() },
        Cut { name: "fragments behind a priority tag", starts: &[0, 8], options: &[], arrange: tag },
        Cut { name: "fragments, the first one twice", starts: &[0, 16], options: &[], arrange: again },
        Cut { name: "fragments, the last one missing", starts: &[0, 16], options: &[], arrange: |f| f.truncate(1) },
        Cut {
            name: "fragments, the first one missing",
            starts: &[0, 16],
            options: &[],
            arrange: |f| drop(f.remove(0)),
        },
    ];
    for cut in cuts {
        let tcp = Tcp { payload: vec![0x41; 24], ..build.syn() };
        let ip = Ipv4 { id: tcp.source, options: cut.options.to_vec(), ..build.ipv4() };
        let segment = build.transport.segment(&tcp, ip.source.into(), ip.destination.into());
        let pieces = ip.fragments(&segment, cut.starts);
        let mut frames: Vec<_> = pieces.iter().map(|packet| v4_frame(packet)).collect();
        (cut.arrange)(&mut frames);
        build.push(format!("IPv4 {}", cut.name), (ip.source.into(), tcp.source), frames);
    }
    overlapping(build);
}

/// The first fragment says port 80, a second one over it says the real port.
fn overlapping(build: &mut Build) {
    let tcp = build.syn();
    let ip = Ipv4 { id: tcp.source, ..build.ipv4() };
    let (source, destination) = (ip.source.into(), ip.destination.into());
    let decoy = build.transport.segment(&Tcp { destination: 80, ..tcp.clone() }, source, destination);
    let real = build.transport.segment(&tcp, source, destination);
    let mut frames = vec![Ipv4 { fragment: 0x2000, ..ip.clone() }.packet(&decoy[..16])];
    frames.push(Ipv4 { fragment: 0x2000, ..ip.clone() }.packet(&real[..16]));
    frames.push(Ipv4 { fragment: 2, ..ip }.packet(&real[16..]));
    let frames = frames.iter().map(|packet| v4_frame(packet)).collect();
    build.push("IPv4 overlapping fragments that rewrite the port", (source, tcp.source), frames);
}
