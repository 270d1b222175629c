//! Pattern lists of OpenSSH (ssh_config(5), PATTERNS), as in `allowed_signers` and `known_hosts`. Owns the match, not its meaning.

/// Comma-separated patterns with `*`, `?` and `!`, as in `*@example.com,!eve@example.com`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatternList(Vec<Pattern>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    negated: bool,
    text: String,
}

impl PatternList {
    /// Reads a list.
    #[must_use]
    pub fn new(list: &str) -> Self {
        let pattern = |item: &str| match item.strip_prefix('!') {
            Some(rest) => Pattern { negated: true, text: rest.to_owned() },
            None => Pattern { negated: false, text: item.to_owned() },
        };
        Self(list.split(',').map(pattern).collect())
    }

    /// The patterns in their written form.
    pub fn words(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|p| if p.negated { format!("!{}", p.text) } else { p.text.clone() })
    }

    /// Whether one pattern matches and no negated one does.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let hit = |p: &&Pattern| glob(name.as_bytes(), p.text.as_bytes());
        let negated = self.0.iter().filter(|p| p.negated).any(|p| hit(&p));
        !negated && self.0.iter().filter(|p| !p.negated).any(|p| hit(&p))
    }
}

/// Whether `text` is one name without wildcards or negation.
#[must_use]
pub fn is_literal(text: &str) -> bool {
    !text.starts_with('!') && !text.contains(['*', '?'])
}

/// `*` matches any run of bytes, `?` any one byte. The time is at most proportional to the product of the lengths.
fn glob(mut name: &[u8], mut pattern: &[u8]) -> bool {
    // Where to resume if the match after the last star fails.
    let mut resume: Option<(&[u8], &[u8])> = None;
    loop {
        match (name, pattern) {
            (_, [b'*', rest @ ..]) => {
                resume = Some((name, rest));
                pattern = rest;
            }
            ([_, name_rest @ ..], [b'?', rest @ ..]) => (name, pattern) = (name_rest, rest),
            ([a, name_rest @ ..], [b, rest @ ..]) if a == b => (name, pattern) = (name_rest, rest),
            ([], []) => return true,
            _ => match resume {
                Some(([_, name_rest @ ..], rest)) => {
                    resume = Some((name_rest, rest));
                    (name, pattern) = (name_rest, rest);
                }
                _ => return false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A simple and slow reference.
    fn naive(name: &[u8], pattern: &[u8]) -> bool {
        match pattern {
            [] => name.is_empty(),
            [b'*', rest @ ..] => (0..=name.len()).any(|n| naive(&name[n..], rest)),
            [b'?', rest @ ..] => !name.is_empty() && naive(&name[1..], rest),
            [c, rest @ ..] => name.first() == Some(c) && naive(&name[1..], rest),
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_naive_twin(name in "[ab]{0,8}", pattern in "[ab*?]{0,8}") {
            prop_assert_eq!(glob(name.as_bytes(), pattern.as_bytes()), naive(name.as_bytes(), pattern.as_bytes()));
        }
    }

    #[test]
    fn negation_wins_wherever_it_stands() {
        for list in ["*@example.com,!eve@example.com", "!eve@example.com,*@example.com"] {
            let list = PatternList::new(list);
            assert!(list.matches("alice@example.com"));
            assert!(!list.matches("eve@example.com"));
            assert!(!list.matches("alice@example.org"));
        }
        assert!(!PatternList::new("!eve@example.com").matches("alice@example.com"));
    }
}
