//! Dedup realms: who shares chunks with whom.

use std::fmt;

use causeway_base::ChunkId;

/// A dedup realm: volumes of one realm share chunks; nothing is shared, nor can be probed, across realms, because the
/// realm's secret key goes into each chunk's name.
#[derive(Clone, PartialEq, Eq)]
pub struct Realm {
    /// The realm's name, for people.
    pub name: String,
    /// The secret that keys its chunk ids.
    pub key: [u8; 32],
}

impl Realm {
    /// A realm of this name and key.
    #[must_use]
    pub fn new(name: impl Into<String>, key: [u8; 32]) -> Self {
        Self { name: name.into(), key }
    }

    /// The name of a chunk: the keyed BLAKE3 of its plain bytes.
    #[must_use]
    pub fn chunk_id(&self, plain: &[u8]) -> ChunkId {
        ChunkId(*blake3::keyed_hash(&self.key, plain).as_bytes())
    }
}

impl fmt::Debug for Realm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Realm({:?}, key …)", self.name) // the key is a secret
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_part_of_the_name_and_never_printed() {
        let one = Realm::new("one", [1; 32]);
        let two = Realm::new("two", [2; 32]);
        assert_ne!(one.chunk_id(b"same"), two.chunk_id(b"same"));
        assert_eq!(one.chunk_id(b"same"), one.clone().chunk_id(b"same"));
        assert!(!format!("{one:?}").contains("1, 1"), "{one:?}");
    }

    #[test]
    fn ids_are_a_format() {
        let realm = Realm::new("golden", *b"causeway golden vectors, key 001");
        assert_eq!(realm.chunk_id(b"").to_string(), "ce35aadc99ccb9184dabefcede7538910b31325796f026e3882471af5538cc28");
        assert_eq!(
            realm.chunk_id(b"causeway").to_string(),
            "ba830dfd2178196e97de106abc16c1695d7971fa44adcd557077e6860f544386"
        );
    }
}
