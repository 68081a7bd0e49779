//! The names in certificates: SPIFFE ids, and the one parser of them.

use std::fmt;
use std::str::FromStr;

use causeway_base::{NodeId, SiteName};
use serde::{Deserialize, Serialize};

/// Longest URI accepted, from the SPIFFE specification.
const URI_BYTES_MAX: usize = 2048;
/// Longest trust domain, from the SPIFFE specification.
const TRUST_BYTES_MAX: usize = 255;
/// Longest client name; a DNS label's length, though more characters are allowed.
const CLIENT_BYTES_MAX: usize = 63;

/// The names that one CA may speak for: one cluster, or several of one owner. 1 to 255 of `a-z 0-9 . - _`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(String);

impl TrustDomain {
    /// The domain as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id of the domain itself, which its CA's certificate carries: `spiffe://<trust>`.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("spiffe://{self}")
    }

    /// Reads what [`TrustDomain::uri`] writes.
    ///
    /// # Errors
    /// [`SpiffeError`].
    pub fn from_uri(uri: &str) -> Result<Self, SpiffeError> {
        let rest = scheme_stripped(uri)?;
        rest.parse().map_err(|reason: SpiffeError| SpiffeError::new(uri, reason.reason))
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if text.is_empty() || text.len() > TRUST_BYTES_MAX || !text.bytes().all(allowed) {
            return Err(SpiffeError::new(text, "a trust domain is 1 to 255 of a-z, 0-9, '.', '-' and '_'"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = SpiffeError;

    fn try_from(text: String) -> Result<Self, SpiffeError> {
        text.parse()
    }
}

impl From<TrustDomain> for String {
    fn from(trust: TrustDomain) -> Self {
        trust.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Who the other end is, within the trust domain. Text form: the path of its SPIFFE id, `site/zurich/node/1` or
/// `client/ops`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum PeerId {
    /// A process of a site.
    Node {
        /// Its site.
        site: SiteName,
        /// Its number.
        node: NodeId,
    },
    /// A person's or a program's certificate: may call, is never called.
    Client {
        /// 1 to 63 of `a-z A-Z 0-9 . - _ @`, not starting with a dot.
        name: String,
    },
}

impl PeerId {
    /// The name of a node.
    #[must_use]
    pub const fn node(site: SiteName, node: NodeId) -> Self {
        Self::Node { site, node }
    }

    /// The name of a client.
    ///
    /// # Errors
    /// [`SpiffeError`] if `name` is not allowed in an id.
    pub fn client(name: &str) -> Result<Self, SpiffeError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'@');
        if name.is_empty() || name.len() > CLIENT_BYTES_MAX || name.starts_with('.') || !name.bytes().all(allowed) {
            return Err(SpiffeError::new(name, "a client name is 1 to 63 of a-z, A-Z, 0-9, '.', '-', '_' and '@'"));
        }
        Ok(Self::Client { name: name.to_owned() })
    }

    /// The node's number, if it is a node.
    #[must_use]
    pub const fn node_id(&self) -> Option<NodeId> {
        match self {
            Self::Node { node, .. } => Some(*node),
            Self::Client { .. } => None,
        }
    }

    /// The node's site, if it is a node.
    #[must_use]
    pub const fn site(&self) -> Option<&SiteName> {
        match self {
            Self::Node { site, .. } => Some(site),
            Self::Client { .. } => None,
        }
    }
}

impl FromStr for PeerId {
    type Err = SpiffeError;

    fn from_str(path: &str) -> Result<Self, SpiffeError> {
        let fail = |reason| SpiffeError::new(path, reason);
        let mut segments = path.split('/');
        let id = match (segments.next(), segments.next(), segments.next(), segments.next()) {
            (Some("site"), Some(site), Some("node"), Some(node)) => {
                let site = site.parse().map_err(|_| fail("its site is no site name"))?;
                // One text for each number: no sign, no leading zero.
                let canonical = node.bytes().all(|b| b.is_ascii_digit()) && (node == "0" || !node.starts_with('0'));
                let number = node.parse().ok().filter(|_| canonical);
                Self::Node { site, node: NodeId(number.ok_or_else(|| fail("its node is no number"))?) }
            }
            (Some("client"), Some(name), None, None) => Self::client(name).map_err(|error| fail(error.reason))?,
            _ => return Err(fail("its path is neither site/<site>/node/<n> nor client/<name>")),
        };
        if segments.next().is_some() { Err(fail("its path goes on")) } else { Ok(id) }
    }
}

impl TryFrom<String> for PeerId {
    type Error = SpiffeError;

    fn try_from(text: String) -> Result<Self, SpiffeError> {
        text.parse()
    }
}

impl From<PeerId> for String {
    fn from(peer: PeerId) -> Self {
        peer.to_string()
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node { site, node } => write!(f, "site/{site}/node/{}", node.get()),
            Self::Client { name } => write!(f, "client/{name}"),
        }
    }
}

/// A whole SPIFFE id: `spiffe://<trust>/site/<site>/node/<n>` or `spiffe://<trust>/client/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    /// Whose CA vouches for it.
    pub trust: TrustDomain,
    /// Who it is there.
    pub peer: PeerId,
}

impl FromStr for SpiffeId {
    type Err = SpiffeError;

    /// Accepts the canonical form only: no upper-case scheme or domain, no port, no user, no percent sign, no query, no
    /// fragment, no empty or extra path segment. So equal ids are equal texts.
    fn from_str(uri: &str) -> Result<Self, SpiffeError> {
        let rest = scheme_stripped(uri)?;
        let (trust, path) = rest.split_once('/').ok_or_else(|| SpiffeError::new(uri, "it has no path"))?;
        let retell = |error: SpiffeError| SpiffeError::new(uri, error.reason);
        Ok(Self { trust: trust.parse().map_err(retell)?, peer: path.parse().map_err(retell)? })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/{}", self.trust, self.peer)
    }
}

fn scheme_stripped(uri: &str) -> Result<&str, SpiffeError> {
    if uri.len() > URI_BYTES_MAX {
        return Err(SpiffeError::new(uri, "it is longer than 2048 bytes"));
    }
    uri.strip_prefix("spiffe://").ok_or_else(|| SpiffeError::new(uri, "its scheme is not spiffe"))
}

/// Why a text is no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an identity of this system: {reason}")]
pub struct SpiffeError {
    text: String,
    reason: &'static str,
}

impl SpiffeError {
    /// Keeps at most 120 characters of the text: it comes from strangers and goes into logs.
    fn new(text: &str, reason: &'static str) -> Self {
        Self { text: text.chars().take(120).collect(), reason }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_survive_text() {
        for text in ["spiffe://acme.example/site/west-europe/node/17", "spiffe://t/client/ops@desk-1"] {
            let id: SpiffeId = text.parse().unwrap();
            assert_eq!(id.to_string(), text);
        }
        assert_eq!(TrustDomain::from_uri("spiffe://a.b").unwrap().uri(), "spiffe://a.b");
    }

    #[test]
    fn anything_but_the_canonical_form_is_refused() {
        for text in [
            "",
            "spiffe://",
            "spiffe://t",
            "spiffe://t/",
            "spiffe:///site/a/node/1",
            "SPIFFE://t/site/a/node/1",
            "https://t/site/a/node/1",
            "spiffe://T/site/a/node/1",
            "spiffe://t:80/site/a/node/1",
            "spiffe://u@t/site/a/node/1",
            "spiffe://t/site/a/node/01",
            "spiffe://t/site/a/node/+1",
            "spiffe://t/site/a/node/",
            "spiffe://t/site/a/node/18446744073709551616",
            "spiffe://t/site/a/node/1/",
            "spiffe://t/site/a/node/1/x",
            "spiffe://t/site//node/1",
            "spiffe://t//site/a/node/1",
            "spiffe://t/site/A/node/1",
            "spiffe://t/site/a/node/1?x",
            "spiffe://t/site/a/node/1#x",
            "spiffe://t/site/a%2f/node/1",
            "spiffe://t/client",
            "spiffe://t/client/",
            "spiffe://t/client/..",
            "spiffe://t/client/a/b",
            "spiffe://t/client/é",
        ] {
            assert!(text.parse::<SpiffeId>().is_err(), "{text}");
        }
        assert!(format!("spiffe://t/client/{}", "a".repeat(64)).parse::<SpiffeId>().is_err());
        assert!(TrustDomain::from_uri("spiffe://t/").is_err());
    }

    proptest! {
        #[test]
        fn what_parses_prints_the_same(text in "(spiffe://)?[a-zA-Z.:@/%0-9-]{0,12}(/site/[a-z]{1,3}/node/[0-9]{1,3}|/client/[a-z.]{1,4})?/?") {
            if let Ok(id) = text.parse::<SpiffeId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
