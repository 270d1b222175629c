//! `prefilter`: where the prefilter is wanted, and how it is attached there.
//!
//! Owns the key's values. It looks at no device.

use super::keys;
use super::value::Value;

/// `prefilter = "off"` or `prefilter = { interfaces = …, mode = … }`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PrefilterConfig {
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

/// Reads `prefilter`.
pub(super) fn read(value: &Value<'_>) -> Option<PrefilterConfig> {
    if !value.is_table() {
        value.choice(&[("off", ())])?;
        return Some(PrefilterConfig::Off);
    }
    let section = value.section(keys::XDP)?;
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
        (Some(names), None) => Some(PrefilterConfig::List(names)),
        (Some(names), Some(xdp)) => Some(PrefilterConfig::Xdp(names, xdp)),
        (None, None) => Some(PrefilterConfig::Auto),
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

    fn read(value: &str) -> Result<PrefilterConfig, String> {
        let config = Config::parse(&format!("xdp = {value}\n[[port]]\nnumber = 22\nmax_duration = \"1h\"\n"));
        config.map(|config| config.xdp).map_err(|problems| format!("{problems:?}"))
    }

    #[test]
    fn xdp_is_for_named_interfaces_alone() {
        let names = || vec!["eth0".to_owned()];
        assert_eq!(read("{ interfaces = ['eth0'] }"), Ok(PrefilterConfig::List(names())));
        assert_eq!(read("{ interfaces = ['eth0'], mode = 'tcx' }"), Ok(PrefilterConfig::List(names())));
        assert_eq!(read("{ interfaces = ['eth0'], mode = 'native' }"), Ok(PrefilterConfig::Xdp(names(), Xdp::Native)));
        assert_eq!(
            read("{ interfaces = ['eth0'], mode = 'generic' }"),
            Ok(PrefilterConfig::Xdp(names(), Xdp::Generic))
        );
        assert_eq!(read("{ interfaces = 'auto', mode = 'tcx' }"), Ok(PrefilterConfig::Auto));
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
