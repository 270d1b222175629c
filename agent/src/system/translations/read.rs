//! Parses netlink messages about rules that could redirect a packet for one of the host's addresses. Holds no socket, so that tests can
//! pass any bytes. An unknown rule counts as a translation.

/// `NLMSG_ERROR` (include/uapi/linux/netlink.h).
pub const ERROR: u16 = 2;
/// `NLMSG_DONE`: the end of a dump.
pub const DONE: u16 = 3;

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Bytes of `struct nfgenmsg`, `struct fib_rule_hdr` and `struct tcmsg`, which come before the attributes.
const NFGENMSG: usize = 4;
const FIB_RULE_HDR: usize = 12;
const TCMSG: usize = 20;

/// Expressions of nftables that leave a packet's addresses and route alone (`nft_expr_type.name`). `immediate` may drop a packet; the lock
/// need not answer that packet.
const HARMLESS: &[&str] = &[
    "bitwise",
    "byteorder",
    "cmp",
    "connlimit",
    "counter",
    "ct",
    "dynset",
    "exthdr",
    "fib",
    "flow_offload",
    "hash",
    "immediate",
    "inner",
    "last",
    "limit",
    "log",
    "lookup",
    "masq",
    "match",
    "meta",
    "notrack",
    "numgen",
    "objref",
    "osf",
    "quota",
    "range",
    "reject",
    "rt",
    "secmark",
    "socket",
    "synproxy",
    "xfrm",
];
/// Targets of iptables with the same property; nftables carries them in the expression `target`.
const HARMLESS_TARGETS: &[&str] = &[
    "",
    "AUDIT",
    "CHECKSUM",
    "CLASSIFY",
    "CONNMARK",
    "CONNSECMARK",
    "CT",
    "DSCP",
    "HL",
    "HMARK",
    "LED",
    "LOG",
    "MARK",
    "MASQUERADE",
    "NFLOG",
    "NOTRACK",
    "RATEEST",
    "REJECT",
    "SECMARK",
    "SET",
    "SNAT",
    "SYNPROXY",
    "TCPMSS",
    "TOS",
    "TRACE",
    "TTL",
];

/// The messages of one datagram: type and payload. Ends at a length that makes no sense.
pub fn messages(datagram: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let len = u32_at(rest, 0)? as usize;
        let kind = u16_at(rest, 4)?;
        let payload = rest.get(HEADER..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    })
}

/// The attributes in `bytes`: type without its flags, and value.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let len = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & 0x3fff;
        let value = rest.get(4..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// The error number of an `NLMSG_ERROR`, positive; 0 for an acknowledgement.
#[must_use]
pub fn errno(payload: &[u8]) -> i32 {
    let word = u32_at(payload, 0).unwrap_or_default();
    i32::from_ne_bytes(word.to_ne_bytes()).saturating_neg()
}

/// The generation of the rules in an answer to `NFT_MSG_GETGEN` (`NFTA_GEN_ID`).
#[must_use]
pub fn generation(payload: &[u8]) -> Option<u32> {
    let value = attribute(payload.get(NFGENMSG..)?, 1)?;
    Some(u32::from_be_bytes(*value.first_chunk()?))
}

/// How an nftables rule (`NFT_MSG_NEWRULE`) may keep packets from the socket that their header names; `None` for a rule that only matches,
/// marks, accepts or drops.
#[must_use]
pub fn translation(payload: &[u8]) -> Option<String> {
    // NFTA_RULE_EXPRESSIONS, then NFTA_LIST_ELEM of NFTA_EXPR_NAME and NFTA_EXPR_DATA.
    let expressions = attribute(payload.get(NFGENMSG..)?, 4)?;
    let did = attributes(expressions).find_map(|(_, expression)| {
        let name = attribute(expression, 1).map(text).unwrap_or_default();
        let data = attribute(expression, 2).unwrap_or_default();
        match name {
            // NFTA_NAT_TYPE: 0 is source translation, which comes after routing.
            "nat" => (attribute(data, 1) != Some(&[0; 4][..])).then(|| "dnat".to_owned()),
            // NFTA_PAYLOAD_SREG: the expression writes.
            "payload" => attribute(data, 5).map(|_| "writes into packets".to_owned()),
            // NFTA_TARGET_NAME
            "target" => {
                let target = attribute(data, 1).map(text).unwrap_or("?");
                (!HARMLESS_TARGETS.contains(&target)).then(|| target.to_owned())
            }
            _ => (!HARMLESS.contains(&name)).then(|| name.to_owned()),
        }
    })?;
    let table = attribute(payload.get(NFGENMSG..)?, 1).map(text).unwrap_or_default();
    Some(format!("{did} in table {table}"))
}

/// Whether a routing rule (`RTM_NEWRULE`) sends every packet to the table `local` first.
#[must_use]
pub fn is_plain_local(payload: &[u8]) -> bool {
    // family, dst_len, src_len, tos, table, res1, res2, action, flags
    let Some([_, 0, 0, 0, table, _, _, 1, ..]) = payload.get(..FIB_RULE_HDR) else { return false };
    let mut plain = *table == 255;
    for (kind, value) in attributes(&payload[FIB_RULE_HDR..]) {
        plain &= match kind {
            // FRA_PRIORITY, FRA_SUPPRESS_PREFIXLEN (all ones: off), FRA_TABLE, FRA_PROTOCOL
            6 | 21 => true,
            14 => value == [0xff; 4],
            15 => value == 255u32.to_ne_bytes(),
            _ => false,
        };
    }
    plain
}

/// The device of an ingress queueing discipline (`RTM_NEWQDISC`), whose filters may change or redirect packets.
#[must_use]
pub fn classified(payload: &[u8]) -> Option<u32> {
    let kind = attribute(payload.get(TCMSG..)?, 1).map(text)?;
    if ["ingress", "clsact"].contains(&kind) { u32_at(payload, 4) } else { None }
}

/// Without the final zero byte.
fn text(value: &[u8]) -> &str {
    std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).unwrap_or("?")
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn attr(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = [(value.len() as u16 + 4).to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn rule(expressions: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let element = |(name, data): &(&str, Vec<u8>)| {
            attr(1, &[attr(1, &[name.as_bytes(), &[0]].concat()), attr(2, data)].concat())
        };
        let list: Vec<u8> = expressions.iter().flat_map(element).collect();
        [vec![2, 0, 0, 0], attr(1, b"nat\0"), attr(4, &list)].concat()
    }

    #[test]
    fn what_sends_packets_elsewhere_is_a_translation_and_what_looks_is_none() {
        let dnat = attr(1, &1u32.to_be_bytes());
        let snat = attr(1, &0u32.to_be_bytes());
        for harmless in [
            rule(&[("cmp", vec![]), ("meta", vec![]), ("immediate", vec![])]),
            rule(&[("payload", attr(1, &[0, 0, 0, 1]))]),
            rule(&[("nat", snat)]),
            rule(&[("masq", vec![])]),
            rule(&[("target", attr(1, b"MASQUERADE\0"))]),
            rule(&[]),
        ] {
            assert_eq!(translation(&harmless), None, "{harmless:02x?}");
        }
        for (name, data) in [
            ("nat", dnat),
            ("nat", vec![]),
            ("redir", vec![]),
            ("tproxy", vec![]),
            ("fwd", vec![]),
            ("queue", vec![]),
            ("payload", attr(5, &[0, 0, 0, 1])),
            ("target", attr(1, b"DNAT\0")),
            ("target", vec![]),
            ("of-a-later-kernel", vec![]),
        ] {
            let text = translation(&rule(&[("cmp", vec![]), (name, data)]));
            assert!(text.as_deref().is_some_and(|text| text.ends_with("in table nat")), "{name}: {text:?}");
        }
    }

    #[test]
    fn only_a_rule_without_conditions_is_the_plain_one() {
        let head = [2, 0, 0, 0, 255, 0, 0, 1, 0, 0, 0, 0];
        let plain = [head.to_vec(), attr(15, &255u32.to_ne_bytes()), attr(14, &[0xff; 4]), attr(21, &[2])].concat();
        assert!(is_plain_local(&plain));
        assert!(!is_plain_local(&[plain.clone(), attr(3, b"eth0\0")].concat()), "for one device alone");
        assert!(!is_plain_local(&[plain.clone(), attr(10, &[0, 0, 0, 1])].concat()), "for one mark alone");
        let mut of_a_network = plain.clone();
        of_a_network[1] = 8;
        assert!(!is_plain_local(&of_a_network));
        let mut main = plain;
        main[4] = 254;
        assert!(!is_plain_local(&main));
    }

    #[test]
    fn devices_with_filters_are_named() {
        let qdisc = |kind: &str| {
            let mut bytes = vec![0; TCMSG];
            bytes[4] = 7;
            [bytes, attr(1, kind.as_bytes())].concat()
        };
        assert_eq!(classified(&qdisc("clsact\0")), Some(7));
        assert_eq!(classified(&qdisc("ingress\0")), Some(7));
        assert_eq!(classified(&qdisc("fq_codel\0")), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for (_, payload) in messages(&bytes) {
                let _ = (translation(payload), is_plain_local(payload), classified(payload), generation(payload), errno(payload));
            }
            let _ = (translation(&bytes), is_plain_local(&bytes), classified(&bytes), generation(&bytes), errno(&bytes));
        }
    }
}
