//! The namespace as the other parts of a node see it.
//!
//! The namespace checks contents with the replicator's store, and the replicator follows the namespace's volumes: each needs
//! the other. So the replicator gets this handle, which knows the namespace from the moment it has started.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use async_trait::async_trait;
use causeway_base::{RetryClass, SiteName, VolumeId};
use causeway_dedup::Realm;
use causeway_namespace::{ContentCheck, ContentError, ContentHold, Namespace};
use causeway_namespace_core::inode::ManifestRef;
use causeway_namespace_core::query;
use causeway_namespace_core::root::{NodeRecord, VolumeRecord, VolumeSpec};
use causeway_replicator::{ContentProblem, Directory, DurableContent, LocalError, Realms};

/// The namespace, once it has started.
#[derive(Debug, Default)]
pub(super) struct Bound {
    namespace: OnceLock<Weak<Namespace>>,
    /// Realms never change once they exist.
    realms: Mutex<BTreeMap<String, Realm>>,
}

impl Bound {
    /// The namespace has started. Only the first call counts.
    pub(super) fn bind(&self, namespace: &Arc<Namespace>) {
        let _ = self.namespace.set(Arc::downgrade(namespace));
    }

    fn namespace(&self) -> Option<Arc<Namespace>> {
        self.namespace.get()?.upgrade()
    }
}

impl Realms for Bound {
    fn realm(&self, name: &str) -> Option<Realm> {
        let mut realms = self.realms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(realm) = realms.get(name) {
            return Some(realm.clone());
        }
        let view = self.namespace()?.group(VolumeId::ROOT)?.view().ok()?;
        let key = match query::realm_key(&view, name) {
            Ok(key) => key?,
            Err(error) => {
                tracing::error!(%error, realm = name, "the key of a realm cannot be read");
                return None;
            }
        };
        let realm = Realm::new(name, key.0);
        realms.insert(name.to_owned(), realm.clone());
        Some(realm)
    }

    fn all(&self) -> Result<Vec<Realm>, LocalError> {
        self.read_realms().map_err(|reason| LocalError {
            class: RetryClass::Transient,
            reason: format!("the realms cannot be read: {reason}"),
        })
    }
}

impl Bound {
    /// As this node's replica of the root group has them: whoever put a chunk here named a realm that it had.
    fn read_realms(&self) -> Result<Vec<Realm>, String> {
        let group = self.namespace().and_then(|namespace| namespace.group(VolumeId::ROOT));
        let view = group.ok_or("the root group does not run here")?.view().map_err(|error| error.to_string())?;
        let realms = query::realms(&view).map_err(|error| error.to_string())?;
        Ok(realms.into_iter().map(|(name, key)| Realm::new(name, key.0)).collect())
    }
}

impl Directory for Bound {
    fn nodes(&self) -> Vec<NodeRecord> {
        self.namespace().map(|namespace| namespace.catalog().nodes.values().cloned().collect()).unwrap_or_default()
    }

    fn volume(&self, id: VolumeId) -> Option<VolumeSpec> {
        Some(self.namespace()?.catalog().volumes.get(&id)?.spec.clone())
    }
}

/// The check before a commit: all chunks durable here.
#[derive(Debug)]
pub(super) struct Durable(pub(super) DurableContent);

#[async_trait]
impl ContentCheck for Durable {
    async fn check(&self, volume: &VolumeRecord, manifests: &[ManifestRef]) -> Result<ContentHold, ContentError> {
        let lease = self.0.check_durable(&volume.spec.realm, manifests).await.map_err(|problem| match problem {
            ContentProblem::Missing { chunks, .. } => ContentError::Missing { chunks },
            ContentProblem::Invalid(reason) => ContentError::Invalid(reason),
            other => ContentError::Store(other.to_string()),
        })?;
        // Dropped, the lease goes on for as long as the commit may still come.
        Ok(lease.map_or_else(ContentHold::default, |lease| ContentHold::new(move || lease.settle())))
    }
}

/// What stands for the root group where volumes have settings: archived, and followed by nobody, since it has no chunks.
pub(super) fn root_spec(home: SiteName) -> VolumeSpec {
    VolumeSpec {
        name: "root".into(),
        mount: bytes::Bytes::from_static(b"/"),
        home,
        survive: None,
        residency: Default::default(),
        learners: Vec::new(),
        voters: Vec::new(),
        replicas: Vec::new(),
        caches: Vec::new(),
        archive: true,
        chunk_bytes_avg: 64 << 10,
        inline_bytes_max: 0,
        realm: "default".into(),
    }
}
