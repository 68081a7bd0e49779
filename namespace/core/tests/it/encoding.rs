//! Bytes from a log, a disk or a peer.

use bytes::Bytes;
use proptest::prelude::*;

use causeway_base::{ClientId, Ino, Seq, Timestamp};
use causeway_namespace_core::command::{
    COMMAND_BYTES_MAX, Command, OPS_MAX, Outcome, REQUEST_BYTES_MAX, REQUESTS_MAX, Request, RequestBody, SessionId,
};
use causeway_namespace_core::encode::{self, DecodeError};
use causeway_namespace_core::inode::{Attr, Body, Content, Dirent, FileKind, Inode, ManifestRef};
use causeway_namespace_core::meta::Meta;
use causeway_namespace_core::root::{NodeRecord, VolumeRecord};
use causeway_namespace_core::session::Session;

use crate::support::{mkdir, put, rename};

fn open() -> Request {
    Request { at: Timestamp(-1), body: RequestBody::OpenSession { client: ClientId(u128::MAX) } }
}

fn batch(ops: usize) -> Request {
    let ops = vec![mkdir("a"); ops];
    let body = RequestBody::Mutate { session: SessionId(1), number: 2, acked_below: 1, ops };
    Request { at: Timestamp(5), body }
}

proptest! {
    #[test]
    fn noise_is_an_error_or_a_value_and_no_panic(mut noise in prop::collection::vec(any::<u8>(), 0..400), versioned in any::<bool>()) {
        if versioned && !noise.is_empty() {
            noise[0] = encode::VERSION;
        }
        let _ = Command::decode(&noise);
        let _ = Request::decode(&noise);
        let _ = Outcome::decode(&noise);
        let _ = encode::record::<Inode>(b"key", &noise);
        let _ = encode::record::<Session>(b"key", &noise);
        let _ = encode::record::<Meta>(b"key", &noise);
        let _ = encode::record::<NodeRecord>(b"key", &noise);
        let _ = encode::record::<VolumeRecord>(b"key", &noise);
    }

    #[test]
    fn a_damaged_command_is_an_error_or_another_command(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let body = RequestBody::Mutate { session: SessionId(1), number: 2, acked_below: 1, ops: vec![mkdir("a"), put("a/b", b"x"), rename("a", "b")] };
        let command = Command { requests: vec![open(), Request { at: Timestamp(1), body }] };
        let mut bytes = command.encode().to_vec();
        prop_assert!(Command::decode(&bytes[..cut.index(bytes.len())]).is_err());
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(decoded) = Command::decode(&bytes) {
            prop_assert_eq!(Command::decode(&decoded.encode()), Ok(decoded));
        }
    }
}

#[test]
fn lists_are_bounded_and_the_bounds_are_reachable() {
    let full = Command { requests: vec![open(); REQUESTS_MAX] };
    assert_eq!(Command::decode(&full.encode()), Ok(full));
    assert_eq!(Request::decode(&batch(OPS_MAX).encode()), Ok(batch(OPS_MAX)));
    let over = Command { requests: vec![open(); REQUESTS_MAX + 1] };
    assert!(matches!(Command::decode(&over.encode()), Err(DecodeError::Payload(_))));
    assert!(matches!(Request::decode(&batch(OPS_MAX + 1).encode()), Err(DecodeError::Payload(_))));
}

#[test]
fn a_lying_length_allocates_nothing() {
    // Version, and a list of 2⁶⁴−1 requests in no bytes.
    let lie = [&[encode::VERSION][..], &[0xff; 9], &[0x01]].concat();
    assert!(matches!(Command::decode(&lie), Err(DecodeError::Payload(_))));
    let huge = vec![encode::VERSION; COMMAND_BYTES_MAX + 1];
    let too_large = DecodeError::TooLarge { len: huge.len(), max: COMMAND_BYTES_MAX };
    assert_eq!(Command::decode(&huge), Err(too_large));
    assert!(matches!(Request::decode(&huge[..=REQUEST_BYTES_MAX]), Err(DecodeError::TooLarge { .. })));
}

#[test]
fn version_and_end_are_checked() {
    let mut bytes = open().encode().to_vec();
    bytes.push(0);
    assert_eq!(Request::decode(&bytes), Err(DecodeError::Trailing(1)));
    bytes[0] = 2;
    assert_eq!(Request::decode(&bytes), Err(DecodeError::Version(2)));
    assert_eq!(Request::decode(b""), Err(DecodeError::Empty));
}

/// These bytes are in stores and images: a change of them needs a new version and a migration.
#[test]
fn the_records_are_a_format() {
    let attr = Attr { mode: 0o644, uid: 1000, gid: 0, mtime: Timestamp(1), ctime: Timestamp(-2) };
    let manifest = ManifestRef { size: 300, root: Bytes::from_static(b"root"), origin: "zurich".parse().unwrap() };
    let file = Inode {
        attr,
        nlink: 1,
        version: Seq(9),
        body: Body::File(Content::Manifest(manifest)),
        xattrs: vec![(Bytes::from_static(b"user.a"), Bytes::from_static(b"v"))],
        quota: None,
    };
    let hex = |bytes: Bytes| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(
        hex(encode::to_bytes(&file)),
        "01a403e80700020301090001ac0204726f6f74067a75726963680106757365722e61017600"
    );
    let dirent = Dirent { ino: Ino(300), kind: FileKind::Directory };
    assert_eq!(hex(encode::to_bytes(&dirent)), "01ac0201");
    assert_eq!(hex(encode::to_bytes(&Meta::default())), "0100000201000000000001010000000100");
}
