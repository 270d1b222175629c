//! `shed`: where the prefilter is wanted, and how it is attached there.
//!
//! Owns the key's values. It looks at no device.

use super::keys;
use super::value::Value;

/// `shed = "off"` or `shed = { interfaces = …, mode = … }`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Shed {
    /// No prefilter at all; no promise is lost.
    Off,
    /// Interfaces that hardware or a hypervisor backs, or that carry a default route; by TCX.
    #[default]
    Auto,
    /// These, by name; by TCX.
    List(Vec<String>),
    /// These, by name; by XDP.
    Xdp(Vec<String>, Xdp),
}

/// Where XDP drops a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Xdp {
    /// In the driver.
    Native,
    /// After the driver.
    Generic,
}

/// Reads `shed`.
pub(super) fn read(value: &Value<'_>) -> Option<Shed> {
    if !value.is_table() {
        value.choice(&[("off", ())])?;
        return Some(Shed::Off);
    }
    let section = value.section(keys::SHED)?;
    let interfaces = section.need("interfaces");
    let modes = [("tcx", None), ("native", Some(Xdp::Native)), ("generic", Some(Xdp::Generic))];
    let mode = section.get("mode").map(|mode| mode.choice(&modes));
    let interfaces = interfaces?;
    let names = if interfaces.is_array() {
        Some(interfaces.texts()?)
    } else {
        interfaces.choice(&[("auto", ())])?;
        None
    };
    match (names, mode.unwrap_or(Some(None))?) {
        (Some(names), None) => Some(Shed::List(names)),
        (Some(names), Some(xdp)) => Some(Shed::Xdp(names, xdp)),
        (None, None) => Some(Shed::Auto),
        (None, Some(_)) => {
            interfaces.wrong("mode is not \"tcx\": name the interfaces, XDP is attached to no others".to_owned());
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn read(value: &str) -> Result<Shed, String> {
        let config = Config::parse(&format!("shed = {value}\n[[port]]\nnumber = 22\nmax_duration = \"1h\"\n"));
        config.map(|config| config.shed).map_err(|problems| format!("{problems:?}"))
    }

    #[test]
    fn xdp_is_for_named_interfaces_alone() {
        let names = || vec!["eth0".to_owned()];
        assert_eq!(read("{ interfaces = ['eth0'] }"), Ok(Shed::List(names())));
        assert_eq!(read("{ interfaces = ['eth0'], mode = 'tcx' }"), Ok(Shed::List(names())));
        assert_eq!(read("{ interfaces = ['eth0'], mode = 'native' }"), Ok(Shed::Xdp(names(), Xdp::Native)));
        assert_eq!(read("{ interfaces = ['eth0'], mode = 'generic' }"), Ok(Shed::Xdp(names(), Xdp::Generic)));
        assert_eq!(read("{ interfaces = 'auto', mode = 'tcx' }"), Ok(Shed::Auto));
        for (wrong, said) in [
            ("{ interfaces = 'auto', mode = 'native' }", "name the interfaces"),
            ("{ interfaces = ['eth0'], mode = 'xdp' }", "is none of"),
            ("{ mode = 'native' }", "interfaces"),
        ] {
            let told = read(wrong).expect_err(wrong);
            assert!(told.contains(said), "{wrong}: {told}");
        }
    }
}
