//! What building and testing need on a machine, why, and how each is told to be there.
//!
//! A table and its look-ups; installs nothing (that is `setup`).

use crate::{kernel, sh, toolchain};
use std::path::Path;

/// Where something is installed from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// These Debian packages.
    Apt(&'static [&'static str]),
    /// A component of the Rust toolchain: from rustup, or else this Debian package.
    Component(&'static str, &'static str),
    /// `cargo install` with these arguments.
    Cargo(&'static [&'static str]),
    /// `go install` of this package, where Go is.
    Go(&'static str),
    /// A kernel that is unpacked and not installed.
    Kernel,
}

/// One thing that must be there.
pub struct Need {
    pub what: &'static str,
    pub why: &'static str,
    pub source: Source,
    /// Whether `demo` and `bench` need it too, and not the tests alone.
    pub demo: bool,
    present: fn() -> bool,
}

impl Need {
    /// Whether nothing has to be installed for it.
    pub fn is_met(&self) -> bool {
        (self.present)()
    }

    /// Whether this machine can do without: grpcurl where there is no Go, unless this is CI.
    pub fn is_optional(&self) -> bool {
        matches!(self.source, Source::Go(_)) && sh::find("go").is_none() && !sh::is_ci()
    }
}

/// Everything, in the order in which it has to be installed.
pub const NEEDS: &[Need] = &[
    Need {
        what: "a compiler for eBPF",
        why: "compiles the kernel programs, and `core` from its source (any nightly with rust-src does as well)",
        source: Source::Apt(&["rustc-web", "cargo-web", "rust-web-src"]),
        demo: true,
        present: || toolchain::find().is_some(),
    },
    Need {
        what: "LLVM 22",
        why: "bpf-linker is built against it, and uses it to make one object of the compiled programs",
        source: Source::Apt(&["llvm-22-dev"]),
        demo: true,
        present: || sh::find("bpf-linker").is_some() || Path::new(LLVM_PREFIX).join("lib/libLLVM.so").exists(),
    },
    Need {
        what: "bpf-linker",
        why: "the linker of Rust's BPF target; LLVM does its work, so our part of it needs no optimisation",
        source: Source::Cargo(&[
            "bpf-linker",
            "--version",
            "0.13.0",
            "--locked",
            "--no-default-features",
            "--features",
            "llvm-22",
            "--debug",
            "--config",
            "profile.dev.debug=false",
        ]),
        demo: true,
        present: || sh::find("bpf-linker").is_some(),
    },
    Need {
        what: "rustfmt",
        why: "`cargo xtask test` checks the format",
        source: Source::Component("rustfmt", "rustfmt-web"),
        demo: false,
        present: || sh::output(sh::cargo().args(["fmt", "--version"])).is_some(),
    },
    Need {
        what: "clippy",
        why: "`cargo xtask test` denies its warnings",
        source: Source::Component("clippy", "rust-web-clippy"),
        demo: false,
        present: || sh::output(sh::cargo().args(["clippy", "--version"])).is_some(),
    },
    Need {
        what: "cargo-deny",
        why: "`cargo xtask test` checks licences, bans and sources (deny.toml); a debug build, because a check takes two seconds all the same",
        source: Source::Cargo(&[
            "cargo-deny",
            "--version",
            "0.20.2",
            "--locked",
            "--no-default-features",
            "--debug",
            "--config",
            "profile.dev.debug=false",
        ]),
        demo: false,
        present: || sh::find("cargo-deny").is_some(),
    },
    Need {
        what: "sshd",
        why: "the real server behind the protected port in tests and demo (Debian starts one of its own on port 22)",
        source: Source::Apt(&["openssh-server"]),
        demo: true,
        present: || sh::find("sshd").is_some(),
    },
    Need {
        what: "ssh and ssh-keygen",
        why: "the real client, and the signatures that people make",
        source: Source::Apt(&["openssh-client"]),
        demo: true,
        present: || sh::find("ssh-keygen").is_some() && sh::find("ssh").is_some(),
    },
    Need {
        what: "ip",
        why: "network namespaces, addresses and tunnels in tests",
        source: Source::Apt(&["iproute2"]),
        demo: true,
        present: || sh::find("ip").is_some(),
    },
    Need {
        what: "nft",
        why: "the test that redirects another port to a protected one",
        source: Source::Apt(&["nftables"]),
        demo: false,
        present: || sh::find("nft").is_some(),
    },
    Need {
        what: "iperf3",
        why: "the stream that must not be touched, and the bulk figures",
        source: Source::Apt(&["iperf3"]),
        demo: true,
        present: || sh::find("iperf3").is_some(),
    },
    Need {
        what: "ping",
        why: "ICMP must pass whatever is closed",
        source: Source::Apt(&["iputils-ping"]),
        demo: false,
        present: || sh::find("ping").is_some(),
    },
    Need {
        what: "strace",
        why: "kills posternd and breaks its disk at any system call, for the crash tests",
        source: Source::Apt(&["strace"]),
        demo: false,
        present: || sh::find("strace").is_some(),
    },
    Need {
        what: "systemd-analyze",
        why: "verifies the unit files",
        source: Source::Apt(&["systemd"]),
        demo: false,
        present: || sh::find("systemd-analyze").is_some(),
    },
    Need {
        what: "systemd-nspawn",
        why: "the container in which the installed service runs for real",
        source: Source::Apt(&["systemd-container"]),
        demo: false,
        present: || sh::find("systemd-nspawn").is_some(),
    },
    Need {
        what: "qemu-system-x86_64",
        why: "emulates the machine that boots another kernel, sleeps, steps its clock and is restored from a snapshot",
        source: Source::Apt(&["qemu-system-x86"]),
        demo: false,
        present: || sh::find("qemu-system-x86_64").is_some() || cfg!(not(target_arch = "x86_64")),
    },
    Need {
        what: "busybox",
        why: "the shell and the tools in that machine, as one program without libraries",
        source: Source::Apt(&["busybox-static"]),
        demo: false,
        present: || sh::find("busybox").is_some(),
    },
    Need {
        what: "wg",
        why: "sets WireGuard up in that machine",
        source: Source::Apt(&["wireguard-tools"]),
        demo: false,
        present: || sh::find("wg").is_some(),
    },
    Need {
        what: "a kernel to boot",
        why: "the oldest that Postern promises to run on, Debian 12's, is not the one of the machine that builds",
        source: Source::Kernel,
        demo: false,
        present: kernel::is_here,
    },
    Need {
        what: "grpcurl",
        why: "the client of people without `postern`, in the shell lines of docs/grpcurl.md",
        source: Source::Go("github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3"),
        demo: false,
        present: || sh::find("grpcurl").is_some(),
    },
];

/// Where Debian's llvm-22-dev is.
pub const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

/// What is not there.
pub fn missing() -> Vec<&'static Need> {
    NEEDS.iter().filter(|need| !need.is_met()).collect()
}
