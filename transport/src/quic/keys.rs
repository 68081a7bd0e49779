//! Keys of an endpoint that are not TLS's: stateless resets and connection ids.

use std::sync::Arc;

use quinn::crypto::{CryptoError, HmacKey};
use quinn::{ConnectionId, ConnectionIdGenerator, EndpointConfig};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

use super::config::UDP_PAYLOAD_MAX;

/// Length of our connection ids: they stand in each packet, and are many enough for the few connections of an endpoint.
const CID_BYTES: usize = 5;

/// The endpoint's settings below its connections.
///
/// `reset_secret` outlives a restart: packets of a connection from before it are answered with a stateless reset that
/// the peer believes, so that the peer reconnects at once instead of after its idle timeout.
pub(super) fn endpoint_config(reset_secret: [u8; 32], seed: Option<u64>) -> EndpointConfig {
    let mut config = EndpointConfig::new(Arc::new(ResetKey(reset_secret)));
    // Between 1,200 and 65,527 by construction; the default stays otherwise.
    let _ = config.max_udp_payload_size(UDP_PAYLOAD_MAX);
    let cid_seed = seed.unwrap_or_else(rand::random);
    config.cid_generator(move || Box::new(Cids(StdRng::seed_from_u64(cid_seed))));
    config.rng_seed(seed.map(|seed| {
        let mut bytes = [0; 32];
        StdRng::seed_from_u64(seed ^ 0x5eed).fill_bytes(&mut bytes);
        bytes
    }));
    config
}

/// Keyed BLAKE3 as the message authentication code.
struct ResetKey([u8; 32]);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        let signature = blake3::keyed_hash(&self.0, data);
        signature_out.copy_from_slice(&signature.as_bytes()[..signature_out.len()]);
    }

    fn signature_len(&self) -> usize {
        blake3::OUT_LEN
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let expected = blake3::keyed_hash(&self.0, data);
        // `Hash` compares in constant time.
        match <[u8; blake3::OUT_LEN]>::try_from(signature) {
            Ok(given) if expected == blake3::Hash::from_bytes(given) => Ok(()),
            _ => Err(CryptoError),
        }
    }
}

/// Connection ids from a seeded generator: the library's own draws from the thread's, which no simulation can repeat.
struct Cids(StdRng);

impl ConnectionIdGenerator for Cids {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut bytes = [0; CID_BYTES];
        self.0.fill_bytes(&mut bytes);
        ConnectionId::new(&bytes)
    }

    fn cid_len(&self) -> usize {
        CID_BYTES
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}
