//! Listings of manifests between nodes.

use causeway_base::{Ino, Seq};
use causeway_namespace_core::inode::{MANIFEST_ROOT_BYTES_MAX, ManifestRef};
use causeway_namespace_core::listing::{Listed, ManifestPage};
use causeway_proto::peer::v1;

use super::{Wire, WireError, lineage, lineage_message, required, site};

impl Wire for Listed {
    type Message = v1::Listed;

    fn into_wire(self) -> v1::Listed {
        v1::Listed { seq: self.seq.0, below: self.below.0, line: lineage_message(self.line) }
    }

    fn from_wire(message: v1::Listed) -> Result<Self, WireError> {
        Ok(Self { seq: Seq(message.seq), below: Ino(message.below), line: lineage(message.line) })
    }
}

impl Wire for ManifestPage {
    type Message = v1::ManifestsResponse;

    fn into_wire(self) -> v1::ManifestsResponse {
        let manifest = |(ino, manifest): (Ino, ManifestRef)| v1::FileManifest {
            inode: ino.0,
            size: manifest.size,
            root: manifest.root,
            origin: manifest.origin.into(),
        };
        v1::ManifestsResponse {
            manifests: self.manifests.into_iter().map(manifest).collect(),
            listed: Some(self.listed.into_wire()),
            end: self.end,
        }
    }

    fn from_wire(message: v1::ManifestsResponse) -> Result<Self, WireError> {
        let manifest = |message: v1::FileManifest| {
            if message.root.len() > MANIFEST_ROOT_BYTES_MAX {
                return Err(WireError::bad("manifest.root", format!("{} bytes", message.root.len())));
            }
            let origin = site(message.origin, "manifest.origin")?;
            Ok((Ino(message.inode), ManifestRef { size: message.size, root: message.root, origin }))
        };
        Ok(Self {
            manifests: message.manifests.into_iter().map(manifest).collect::<Result<_, _>>()?,
            listed: required(message.listed, "page.listed")?,
            end: message.end,
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use causeway_base::{Epoch, NodeId};
    use causeway_namespace_core::lineage::Lineage;

    use super::*;

    #[test]
    fn pages_survive_and_what_is_too_long_is_refused() {
        let manifest = ManifestRef { size: 9, root: Bytes::from_static(b"root"), origin: "zurich".parse().unwrap() };
        let line = Lineage { epoch: Epoch(2), founder: NodeId(3), ..Lineage::default() };
        let page = ManifestPage {
            manifests: vec![(Ino(3), manifest)],
            listed: Listed { seq: Seq(4), below: Listed::ALL, line },
            end: true,
        };
        assert_eq!(ManifestPage::from_wire(page.clone().into_wire()), Ok(page.clone()));
        let mut long = page.clone().into_wire();
        long.manifests[0].root = vec![0; MANIFEST_ROOT_BYTES_MAX + 1].into();
        assert!(ManifestPage::from_wire(long).is_err());
        let mut unset = page.into_wire();
        unset.listed = None;
        assert!(ManifestPage::from_wire(unset).is_err(), "how far it is must be said");
    }
}
