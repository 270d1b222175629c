//! The variables `POSTERN_…`, for containers, CI and systemd units. The command line overrides them.

use super::Common;
use crate::{
    failure::{Failure, Result},
    tls::fingerprint,
};

/// What these variables may say for yes and for no.
const YES: [&str; 3] = ["1", "yes", "true"];
const NO: [&str; 4] = ["", "0", "no", "false"];

impl Common {
    /// Adds `POSTERN_KEY`, `POSTERN_FINGERPRINT`, `POSTERN_ACCEPT_NEW` and `POSTERN_JSON` where the command line has no such option. An
    /// empty variable says nothing.
    ///
    /// # Errors
    /// [`crate::failure::Kind::Usage`] where one of them makes no sense.
    pub fn with_environment(self, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let text = |name: &str| variable(name).filter(|text| !text.is_empty());
        let json = self.json || is_yes(&variable, "POSTERN_JSON")?;
        let key = self.key.or_else(|| text("POSTERN_KEY"));
        let accept_new = self.accept_new || is_yes(&variable, "POSTERN_ACCEPT_NEW")?;
        let fingerprint = match self.fingerprint {
            Some(fingerprint) => Some(fingerprint),
            None => text("POSTERN_FINGERPRINT").map(|text| fingerprint(&text)).transpose().map_err(|error| {
                Failure::usage(format!("POSTERN_FINGERPRINT: {error}")).next("write it as SHA256:…, or unset it")
            })?,
        };
        Ok(Self { json, key, accept_new, fingerprint })
    }
}

fn is_yes(variable: impl Fn(&str) -> Option<String>, name: &str) -> Result<bool> {
    let text = variable(name).unwrap_or_default();
    let word = text.to_ascii_lowercase();
    match (YES.contains(&word.as_str()), NO.contains(&word.as_str())) {
        (true, _) => Ok(true),
        (_, true) => Ok(false),
        _ => Err(Failure::usage(format!("{name} is {text:?}")).next(format!("set {name} to 1 or 0, or unset it"))),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::Cli;
    use super::*;

    const ONE: &str = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU";

    fn common(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Common> {
        let cli = Cli::try_parse_from([&["postern", "status", "vm1"], arguments].concat()).unwrap();
        let find =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        cli.common.with_environment(find)
    }

    #[test]
    fn the_command_line_comes_first_and_an_empty_variable_says_nothing() {
        let all =
            [("POSTERN_KEY", "/k"), ("POSTERN_FINGERPRINT", ONE), ("POSTERN_ACCEPT_NEW", "1"), ("POSTERN_JSON", "Yes")];
        let found = common(&[], &all).unwrap();
        assert_eq!((found.key.as_deref(), found.accept_new, found.json), (Some("/k"), true, true));
        assert_eq!(found.fingerprint, ONE.parse().ok());
        assert_eq!(common(&["--key", "/other"], &all).unwrap().key.as_deref(), Some("/other"));
        let empty = all.map(|(name, _)| (name, ""));
        let found = common(&[], &empty).unwrap();
        assert_eq!((found.key, found.accept_new, found.json, found.fingerprint), (None, false, false, None));
        for wrong in [("POSTERN_FINGERPRINT", "x"), ("POSTERN_ACCEPT_NEW", "perhaps"), ("POSTERN_JSON", "2")] {
            assert!(common(&[], &[wrong]).unwrap_err().message.contains(wrong.0));
        }
    }
}
