//! Operations of the root group: the volume table.

use std::collections::{BTreeMap, BTreeSet};

use causeway_base::{Epoch, VolumeId};

use super::cluster::{Known, RootFault, cluster, invalid, replace_nodes};
use super::transaction::Transaction;
use crate::inode::INLINE_BYTES_MAX;
use crate::key;
use crate::path;
use crate::records::ReadError;
use crate::root::{
    CHUNK_BYTES_AVG, ClusterRecord, MOUNT_BYTES_MAX, NodeRecord, RealmKey, RootOutcome, RootRefusal, VolumeRecord,
    VolumeSpec, is_volume_name,
};

/// Creates a volume, or finds that it is there.
pub(super) fn create(
    transaction: &mut Transaction<'_>,
    spec: &VolumeSpec,
    epoch: Epoch,
    known: &Known,
) -> Result<RootOutcome, RootFault> {
    let base = transaction.base;
    if let Some(id) = transaction.others.get::<VolumeId>(base, &key::volume_by_name(&spec.name))? {
        let existing = transaction.others.get::<VolumeRecord>(base, &key::volume(id))?;
        let same = existing.is_some_and(|existing| existing.spec.same_declared(spec));
        return if same { Ok(RootOutcome::Volume(id)) } else { Err(RootRefusal::NameTaken(spec.name.clone()).into()) };
    }
    let id = transaction.meta.next_volume;
    transaction.meta.next_volume = id.next().ok_or_else(|| invalid("volume ids are used up"))?;
    insert(transaction, &VolumeRecord::new(id, epoch, spec.clone()), known)?;
    Ok(RootOutcome::Volume(id))
}

/// All volumes.
pub(super) fn all(transaction: &Transaction<'_>) -> Result<Vec<VolumeRecord>, ReadError> {
    let (from, to) = key::table(key::VOLUME);
    transaction.others.all(transaction.base, &from, &to)
}

/// Changes what may change of a volume.
pub(super) fn set(
    transaction: &mut Transaction<'_>,
    id: VolumeId,
    expected: u64,
    spec: &VolumeSpec,
) -> Result<RootOutcome, RootFault> {
    let base = transaction.base;
    let found = transaction.others.get::<VolumeRecord>(base, &key::volume(id))?;
    let mut volume = found.ok_or(RootRefusal::UnknownVolume(id))?;
    if volume.spec == *spec {
        return Ok(RootOutcome::Volume(id));
    }
    if volume.revision != expected {
        let what = format!("volume {:?}", volume.spec.name);
        return Err(RootRefusal::Changed { what, expected, found: volume.revision }.into());
    }
    let fixed = |spec: &VolumeSpec| (spec.name.clone(), spec.mount.clone(), spec.realm.clone(), spec.chunk_bytes_avg);
    if fixed(&volume.spec) != fixed(spec) {
        return Err(invalid("name, mount point, realm and chunk size of a volume never change"));
    }
    check_spec(transaction, spec, &Known::of(&super::cluster::nodes(transaction)?))?;
    volume.members.extend(spec.placed());
    volume.revision += 1;
    volume.spec = spec.clone();
    transaction.others.set(base, key::volume(id), Some(&volume))?;
    Ok(RootOutcome::Volume(id))
}

/// The group has moved: its members are those of the spec.
pub(super) fn placed(transaction: &mut Transaction<'_>, id: VolumeId, revision: u64) -> Result<RootOutcome, RootFault> {
    let base = transaction.base;
    let found = transaction.others.get::<VolumeRecord>(base, &key::volume(id))?;
    let mut volume = found.ok_or(RootRefusal::UnknownVolume(id))?;
    if volume.revision == revision && !volume.is_placed() {
        volume.members = volume.spec.placed().collect();
        volume.founders.clear();
        transaction.others.set(base, key::volume(id), Some(&volume))?;
    }
    Ok(RootOutcome::Done)
}

/// Sets nodes, voters and epochs anew after a restore.
pub(super) fn reseed(
    transaction: &mut Transaction<'_>,
    raised: &ClusterRecord,
    nodes: &[NodeRecord],
    specs: &BTreeMap<VolumeId, VolumeSpec>,
) -> Result<RootOutcome, RootFault> {
    let base = transaction.base;
    let current = cluster(transaction)?;
    if current.id != raised.id {
        return Err(RootRefusal::OtherCluster { found: current.id, asked: raised.id }.into());
    }
    let (from, to) = key::table(key::VOLUME);
    let before: Vec<VolumeRecord> = transaction.others.all(base, &from, &to)?;
    if raised.epoch <= current.epoch {
        let same_volumes =
            before.len() == specs.len() && before.iter().all(|volume| specs.get(&volume.id) == Some(&volume.spec));
        if raised.epoch == current.epoch && same_volumes && same_nodes(transaction, nodes)? {
            return Ok(RootOutcome::Done);
        }
        return Err(invalid(format!("epoch {} is not above the current {}", raised.epoch, current.epoch)));
    }
    transaction.others.set(base, key::cluster(), Some(raised))?;
    transaction.meta.epoch = raised.epoch.max(transaction.meta.epoch);
    let known = replace_nodes(transaction, nodes)?;
    for volume in &before {
        if !specs.contains_key(&volume.id) {
            return Err(invalid(format!("volume {:?} is missing from the list", volume.spec.name)));
        }
        transaction.others.set::<VolumeRecord>(base, key::volume(volume.id), None)?;
        transaction.others.set::<VolumeId>(base, key::volume_by_name(&volume.spec.name), None)?;
        transaction.others.set::<VolumeId>(base, key::volume_by_mount(&volume.spec.mount), None)?;
    }
    // The new nodes begin every group in its first line.
    let (from, to) = key::table(key::PROMOTION);
    while let Some((promoted, _)) = transaction.others.first(base, &from, &to)? {
        transaction.others.set::<crate::promotion::PromotionRecord>(base, promoted, None)?;
    }
    for (id, spec) in specs {
        let above = id.next().filter(|_| *id != VolumeId::ROOT);
        let above = above.ok_or_else(|| invalid(format!("{id} is not the id of a volume")))?;
        transaction.meta.next_volume = transaction.meta.next_volume.max(above);
        if let Some(taken) = transaction.others.get::<VolumeId>(base, &key::volume_by_name(&spec.name))? {
            return Err(invalid(format!("{taken} and {id} are both called {:?}", spec.name)));
        }
        insert(transaction, &VolumeRecord::new(*id, raised.epoch, spec.clone()), &known)?;
    }
    Ok(RootOutcome::Done)
}

/// Whether these are the nodes there are, whatever stores and addresses they have registered since.
fn same_nodes(transaction: &Transaction<'_>, nodes: &[NodeRecord]) -> Result<bool, ReadError> {
    let place = |node: &NodeRecord| (node.id, node.site.clone());
    let current: BTreeSet<_> = super::cluster::nodes(transaction)?.iter().map(place).collect();
    Ok(current == nodes.iter().map(place).collect())
}

/// Adds a volume whose name is free.
fn insert(transaction: &mut Transaction<'_>, volume: &VolumeRecord, known: &Known) -> Result<(), RootFault> {
    let base = transaction.base;
    let spec = &volume.spec;
    check_spec(transaction, spec, known)?;
    check_mount(transaction, spec)?;
    transaction.others.set(base, key::volume(volume.id), Some(volume))?;
    transaction.others.set(base, key::volume_by_name(&spec.name), Some(&volume.id))?;
    transaction.others.set(base, key::volume_by_mount(&spec.mount), Some(&volume.id))?;
    Ok(())
}

pub(super) fn check_spec(transaction: &Transaction<'_>, spec: &VolumeSpec, known: &Known) -> Result<(), RootFault> {
    if !is_volume_name(&spec.name) {
        let name: String = spec.name.chars().take(80).collect();
        return Err(invalid(format!("volume name {name:?}: 1 to 63 of a-z, 0-9 and '-', not starting with '-'")));
    }
    if let Some(unknown) = spec.placed().find(|node| !known.nodes.contains(node)) {
        return Err(RootRefusal::UnknownNode(unknown).into());
    }
    let sites = [&spec.home].into_iter().chain(&spec.replicas).chain(&spec.caches);
    if let Some(unknown) = sites.into_iter().find(|site| !known.sites.contains(site)) {
        return Err(RootRefusal::UnknownSite(unknown.clone()).into());
    }
    if spec.voters.is_empty() || !all_differ(&spec.placed().collect::<Vec<_>>()) {
        return Err(invalid("voters and learners: at least one voter, each node once"));
    }
    if !all_differ(&spec.replicas.iter().chain(&spec.caches).collect::<Vec<_>>()) {
        return Err(invalid("replicas and caches: each site once"));
    }
    if !spec.chunk_bytes_avg.is_power_of_two() || !CHUNK_BYTES_AVG.contains(&spec.chunk_bytes_avg) {
        return Err(invalid(format!(
            "average chunk of {} bytes: a power of two of 16 to 256 KiB",
            spec.chunk_bytes_avg
        )));
    }
    if spec.inline_bytes_max as usize > INLINE_BYTES_MAX {
        return Err(invalid(format!("inline files of {} bytes, at most {INLINE_BYTES_MAX}", spec.inline_bytes_max)));
    }
    let realm = key::realm(&spec.realm);
    let exists = spec.realm.len() <= 63 && transaction.others.get::<RealmKey>(transaction.base, &realm)?.is_some();
    if exists { Ok(()) } else { Err(invalid("the dedup realm is not known")) }
}

fn all_differ<T: Ord>(list: &[T]) -> bool {
    list.iter().collect::<BTreeSet<_>>().len() == list.len()
}

/// Refuses a mount point that another volume has. It may lie in or above another's: the nearest one above a path has it.
fn check_mount(transaction: &Transaction<'_>, spec: &VolumeSpec) -> Result<(), RootFault> {
    let base = transaction.base;
    let shown = String::from_utf8_lossy(&spec.mount[..spec.mount.len().min(MOUNT_BYTES_MAX)]).into_owned();
    let below = spec.mount.strip_prefix(b"/").filter(|_| spec.mount.len() <= MOUNT_BYTES_MAX);
    let canonical = below.is_some_and(|names| {
        names.is_empty() || names.split(|byte| *byte == b'/').all(|name| path::check_name(name).is_ok())
    });
    if !canonical {
        return Err(invalid(format!("mount point {shown:?}: an absolute path of at most {MOUNT_BYTES_MAX} bytes")));
    }
    let taken = |id: VolumeId| -> Result<(), RootFault> {
        let other = transaction.others.get::<VolumeRecord>(base, &key::volume(id))?;
        let volume = other.map_or_else(|| id.to_string(), |other| other.spec.name);
        Err(RootRefusal::MountTaken { mount: shown.clone(), volume }.into())
    };
    match transaction.others.get::<VolumeId>(base, &key::volume_by_mount(&spec.mount))? {
        Some(id) => taken(id),
        None => Ok(()),
    }
}
