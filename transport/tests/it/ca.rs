//! Files, modes and the life of certificates.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use causeway_base::{Clock, SystemClock};
use causeway_transport::identity::IdentityError;
use causeway_transport::{CertificateAuthority, Identity, IdentityStore};

use crate::common::*;

#[test]
fn what_is_saved_loads_and_keys_are_private() {
    let folder = tempfile::tempdir().unwrap();
    let ca = ca();
    ca.save(folder.path()).unwrap();
    let ca = CertificateAuthority::load(folder.path(), Arc::new(SystemClock)).unwrap();
    assert_eq!(ca.trust().as_str(), "test.example");
    let issued = ca.issue(&node("zurich", 1), Duration::from_secs(60)).unwrap();
    issued.save(folder.path()).unwrap();
    let identity = Identity::load(folder.path()).unwrap();
    assert_eq!(identity.id().to_string(), "spiffe://test.example/site/zurich/node/1");
    let life = identity.not_after().since(SystemClock.now());
    assert!(life <= Duration::from_secs(60) && life > Duration::from_secs(50), "{life:?}");
    for name in ["key.pem", "ca.key.pem"] {
        let mode = std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert!(!format!("{ca:?} {issued:?} {identity:?}").contains("PRIVATE"));
}

#[test]
fn a_key_of_another_certificate_is_refused_and_the_old_identity_stays() {
    let folder = tempfile::tempdir().unwrap();
    let ca = ca();
    let issue = |n| ca.issue(&node("zurich", n), Duration::from_secs(60)).unwrap();
    issue(1).save(folder.path()).unwrap();
    let store = IdentityStore::load(folder.path()).unwrap();
    let second = issue(2);
    std::fs::write(folder.path().join("key.pem"), &second.key_pem).unwrap();
    assert!(matches!(store.reload(), Err(IdentityError::KeyMismatch)));
    assert_eq!(*store.current().peer(), node("zurich", 1));
    std::fs::write(folder.path().join("cert.pem"), &second.cert_pem).unwrap();
    assert_eq!(*store.reload().unwrap().peer(), node("zurich", 2));
    std::fs::write(folder.path().join("ca.pem"), "nothing").unwrap();
    assert!(matches!(store.reload(), Err(IdentityError::Pem { what: "the CA certificate", .. })));
    std::fs::remove_file(folder.path().join("cert.pem")).unwrap();
    assert!(matches!(store.reload(), Err(IdentityError::File { .. } | IdentityError::Pem { .. })));
}
