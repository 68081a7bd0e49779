//! Names that people give to sites.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A site's name: 1 to 63 of `a-z 0-9 -`, starting with a letter, not ending with `-` (a DNS label, since it stands in
/// certificates and addresses).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SiteName(String);

/// Why a text is no site name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a site name: use 1 to 63 of a-z, 0-9 and '-', starting with a letter and not ending with '-'")]
pub struct NameError(String);

impl SiteName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SiteName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let starts = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
        let allowed = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if text.len() <= 63 && starts && allowed && !text.ends_with('-') {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError(text.chars().take(80).collect()))
        }
    }
}

impl TryFrom<String> for SiteName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<SiteName> for String {
    fn from(name: SiteName) -> Self {
        name.0
    }
}

impl fmt::Display for SiteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_dns_labels_are_names() {
        assert!("zurich".parse::<SiteName>().is_ok());
        assert!("west-europe-2".parse::<SiteName>().is_ok());
        for text in ["", "Zurich", "2nd", "a_b", "a-", "-a", "a b", "zürich", &"a".repeat(64)] {
            assert!(text.parse::<SiteName>().is_err(), "{text}");
        }
    }
}
