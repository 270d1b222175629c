//! TCP: flags, options, data offsets, data, ports, checksums.

use super::Build;
use crate::frame::flag::{ACK, CWR, ECE, FIN, PSH, RST, SYN, URG};

pub(super) fn cases(build: &mut Build) {
    flags(build);
    options(build);
    build.v4("SYN with data", |_, tcp| tcp.payload = vec![0x41; 100]);
    build.v6("IPv6 SYN with data", |_, tcp| tcp.payload = vec![0x41; 1000]);
    build.v4("urgent pointer and data", |_, tcp| {
        tcp.flags |= URG;
        tcp.urgent = 22;
        tcp.payload = vec![0x41; 8];
    });
    build.v4("window 0", |_, tcp| tcp.window = 0);
    build.v4("sequence number 0xffffffff", |_, tcp| tcp.sequence = u32::MAX);
    build.v4("acknowledgement number without ACK", |_, tcp| tcp.acknowledgement = 7);
    build.v4("bad checksum", |_, tcp| tcp.wrong_by = 1);
    for port in [0, 1, 22, 53, 65535] {
        build.v4(format!("source port {port}"), |_, tcp| tcp.source = port);
    }
    build.v6("IPv6 source port 22", |_, tcp| tcp.source = 22);
}

fn flags(build: &mut Build) {
    let sets = [
        ("SYN URG", SYN | URG),
        ("SYN PSH", SYN | PSH),
        ("SYN ECE CWR", SYN | ECE | CWR),
        ("SYN ECE", SYN | ECE),
        ("SYN PSH URG ECE CWR", SYN | PSH | URG | ECE | CWR),
        ("SYN FIN", SYN | FIN),
        ("SYN RST", SYN | RST),
        ("SYN ACK", SYN | ACK),
        ("ACK", ACK),
        ("FIN", FIN),
        ("no flags", 0),
    ];
    for (name, flags) in sets {
        build.v4(format!("flags {name}"), |_, tcp| tcp.flags = flags);
    }
    build.v6("IPv6 flags SYN URG PSH", |_, tcp| tcp.flags = SYN | URG | PSH);
    build.v4("reserved bits set", |_, tcp| tcp.reserved = 0b1110);
    build.v4("accurate ECN bit", |_, tcp| {
        tcp.reserved = 1;
        tcp.flags = SYN | ECE | CWR;
    });
}

fn options(build: &mut Build) {
    build.v4("no TCP options", |_, tcp| tcp.options.clear());
    for words in [6, 8, 10, 12, 15] {
        build.v4(format!("data offset {words}, NOP"), |_, tcp| tcp.options = vec![1; (words - 5) * 4]);
    }
    let named: [(&str, &[u8]); 6] = [
        ("fast open, cookie request", &[34, 2, 1, 1]),
        ("fast open, cookie", &[34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1]),
        ("multipath capable", &[30, 4, 0x10, 0x01]),
        ("time stamp, SACK, scale", &[2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7]),
        ("unknown option 253", &[253, 4, 0, 22]),
        ("option length 0", &[253, 0, 0, 0]),
    ];
    for (name, bytes) in named {
        build.v4(format!("TCP option: {name}"), |_, tcp| tcp.options = bytes.to_vec());
    }
    build.v4("data offset 4", |_, tcp| tcp.offset = Some(4));
    build.v4("data offset beyond the segment", |_, tcp| tcp.offset = Some(15));
}
