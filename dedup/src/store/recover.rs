//! Opens a store: brings index and packs together again, whatever was lost between them.
//!
//! The packs are the truth. A sealed pack that the index knows is not read at all; one that it does not know is read by its
//! footer; only the packs without a footer (normally one) are scanned, and only their new payloads are checked.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use causeway_base::ChunkId;
use causeway_storage::disk::{DiskFile, Open};

use super::files::{OpenPack, PackFiles};
use super::format::{FooterEntry, PACK_HEADER_BYTES, VERSION};
use super::index::{BATCH_ENTRIES, Entry, Index, Location, Lookup, PackMeta, PackState};
use super::pack::{ReadError, Scanned, read_footer, read_pack_header, read_trailer, scan};
use super::writer::{Active, Writer, full};
use super::{DamagedRange, RebuildReason, RecoveryReport, StoreError, StoreOptions, TailCut};
use crate::delta::{DEPTH_MAX, READS_MAX};

type Corrupt = BTreeMap<ChunkId, Location>;

/// What a pack file holds.
enum Inspected {
    /// Nothing but zeros, or less than a header: a crash came while it was created.
    Blank,
    /// Without a header: its records cannot be told from anything else.
    Unreadable,
    Records {
        salt: u64,
        version: u16,
        sealed: bool,
        scanned: Scanned,
    },
}

fn inspect(files: &PackFiles, pack: u32, file: &dyn DiskFile, check_from: u32) -> Result<(u64, Inspected), StoreError> {
    let failed = |source| files.error("read", pack, source);
    let len = file.len().map_err(failed)?;
    let (salt, version) = match read_pack_header(file) {
        Ok(header) if header.pack == pack => (header.salt, header.version),
        Ok(_) => return Ok((len, Inspected::Unreadable)),
        Err(ReadError::Io(error)) => return Err(failed(error)),
        Err(ReadError::Damage(_)) if is_blank(file, len).map_err(failed)? => return Ok((len, Inspected::Blank)),
        Err(ReadError::Damage(_)) => return Ok((len, Inspected::Unreadable)),
    };
    match read_trailer(file, len) {
        Err(ReadError::Io(error)) => return Err(failed(error)),
        Ok(Some(trailer)) if trailer.pack == pack && trailer.salt == salt => match read_footer(file, len, &trailer) {
            Err(ReadError::Io(error)) => return Err(failed(error)),
            Err(ReadError::Damage(_)) => {}
            Ok(entries) => {
                let scanned = Scanned { entries, good_end: len, proven: len, ..Scanned::default() };
                return Ok((len, Inspected::Records { salt, version, sealed: true, scanned }));
            }
        },
        Ok(_) | Err(ReadError::Damage(_)) => {}
    }
    let scanned = scan(file, len, salt, u64::from(check_from)).map_err(failed)?;
    Ok((len, Inspected::Records { salt, version, sealed: false, scanned }))
}

fn is_blank(file: &dyn DiskFile, len: u64) -> io::Result<bool> {
    if len < PACK_HEADER_BYTES as u64 {
        return Ok(true);
    }
    let mut window = vec![0; 1 << 16];
    let mut at = 0;
    while at < len {
        let part = &mut window[..usize::try_from(len - at).unwrap_or(usize::MAX).min(1 << 16)];
        file.read_exact_at(part, at)?;
        if part.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        at += part.len() as u64;
    }
    Ok(true)
}

/// Publishes the entries from `from` on, and then the pack's mark.
fn publish(
    index: &Index,
    pack: u32,
    entries: &[FooterEntry],
    meta: PackMeta,
    from: u32,
    corrupt: &Corrupt,
) -> Result<u64, StoreError> {
    let located: Vec<Entry> = entries
        .iter()
        .filter(|entry| entry.offset >= from)
        .map(|entry| Entry::of(pack, entry))
        .filter(|entry| corrupt.get(&entry.id) != Some(&entry.location))
        .collect();
    for batch in located.chunks(BATCH_ENTRIES) {
        index.publish(batch, &[], &[])?;
    }
    index.publish(&[], &[(pack, meta)], &[])?;
    Ok(located.len() as u64)
}

/// Forgets that chunks were corrupt which have a record elsewhere that can be read, once all packs are in the index: a whole one,
/// or a delta of which the bases are there. Another delta is no reason: it may be older, and its base lost since.
fn forget_healed(index: &Index, corrupt: &Corrupt) -> Result<(), StoreError> {
    let mut healed = Vec::new();
    for (id, bad) in corrupt {
        let (Lookup::At(location), _) = index.find(id)? else { continue };
        if location != *bad && stands(index, id, DEPTH_MAX, &mut 0)? {
            healed.push(*id);
        }
    }
    Ok(index.forget_corrupt(&healed)?)
}

/// Whether a chunk and all that it stands on is in the index, within the bounds that hold for reading it.
fn stands(index: &Index, id: &ChunkId, links: u8, reads: &mut usize) -> Result<bool, StoreError> {
    let (Lookup::At(location), bases) = index.find(id)? else { return Ok(false) };
    if location.depth == 0 {
        return Ok(true);
    }
    let Some(links) = links.checked_sub(1).filter(|_| !bases.is_empty()) else { return Ok(false) };
    for base in &bases {
        *reads += 1;
        if *reads > READS_MAX || !stands(index, base, links, reads)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn meta_of(state: PackState, indexed_to: u64, entries: &[FooterEntry]) -> PackMeta {
    let mut meta = PackMeta { state, indexed_to: u32::try_from(indexed_to).unwrap_or(u32::MAX), ..PackMeta::EMPTY };
    entries.iter().for_each(|entry| meta.count(entry));
    meta
}

pub(super) fn open(
    files: &PackFiles,
    index: &Index,
    options: &StoreOptions,
    progress: &mut dyn FnMut(&RecoveryReport),
) -> Result<(Writer, RecoveryReport), StoreError> {
    let dir = files.dir();
    files.disk().create_dir_all(dir).map_err(|source| files.dir_error("create", source))?;
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        files.disk().sync_dir(parent).map_err(|source| files.dir_error("sync the folder of", source))?;
    }
    let packs = files.list()?;
    let clean = index.take_clean()?;
    let corrupt: Corrupt = index.corrupt()?.into_iter().collect();
    let metas = index.metas()?;
    let reason = match &metas {
        _ if packs.is_empty() && metas.as_ref().is_some_and(Vec::is_empty) => None,
        None => Some(RebuildReason::Damaged),
        Some(metas) if metas.is_empty() => Some(RebuildReason::Empty),
        Some(_) if !clean && !options.trust_index_after_crash => Some(RebuildReason::Crash),
        Some(metas) if !spot_check(files, index, metas, &corrupt)? => Some(RebuildReason::Damaged),
        Some(_) => None,
    };
    let known: BTreeMap<u32, PackMeta> = metas.unwrap_or_default().into_iter().collect();
    let mut recovery = Recovery { files, index, options, known, corrupt, fresh: false };
    let mut reason = reason;
    let (writer, mut report) = loop {
        if reason.is_some() {
            index.clear()?;
            recovery.fresh = true;
        }
        match recovery.run(&packs, progress)? {
            (writer, report, false) => break (writer, report),
            (_, _, true) => reason = Some(RebuildReason::PacksChanged),
        }
    };
    report.rebuilt = reason;
    forget_healed(index, &recovery.corrupt)?;
    files.disk().sync_dir(dir).map_err(|source| files.dir_error("sync", source))?;
    index.persist()?;
    Ok((writer, report))
}

/// Looks up some entries of some packs. Finds an index that lost entries though it kept the marks.
fn spot_check(
    files: &PackFiles,
    index: &Index,
    metas: &[(u32, PackMeta)],
    corrupt: &Corrupt,
) -> Result<bool, StoreError> {
    let sealed: Vec<u32> = metas
        .iter()
        .filter(|(_, meta)| meta.state == PackState::Sealed && !meta.thinned)
        .map(|(pack, _)| *pack)
        .collect();
    let Some(last) = sealed.len().checked_sub(1) else { return Ok(true) };
    for pack in [sealed[0], sealed[last / 2], sealed[last]] {
        let Ok(opened) = files.get(pack) else { continue }; // missing and damaged packs are dealt with elsewhere
        let Ok(len) = opened.file.len() else { continue };
        let Ok(Some(trailer)) = read_trailer(opened.file.as_ref(), len) else { continue };
        let Ok(entries) = read_footer(opened.file.as_ref(), len, &trailer) else { continue };
        for entry in entries.iter().step_by(entries.len() / 16 + 1) {
            if index.lookup(&entry.id)? == Lookup::Absent && !corrupt.contains_key(&entry.id) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

struct Recovery<'a> {
    files: &'a PackFiles,
    index: &'a Index,
    options: &'a StoreOptions,
    /// Marks that the index had; its entries are void if `fresh`.
    known: BTreeMap<u32, PackMeta>,
    corrupt: Corrupt,
    fresh: bool,
}

impl Recovery<'_> {
    /// Ends the removal of packs of which nothing is used.
    fn remove_dead(&self, packs: &[u32]) -> Result<(), StoreError> {
        let dead = self.known.iter().filter(|(_, meta)| meta.state == PackState::Dead);
        let dead: Vec<u32> = dead.map(|(pack, _)| *pack).collect();
        if dead.is_empty() {
            return Ok(());
        }
        for pack in dead.iter().filter(|pack| packs.contains(pack)) {
            match self.remove(*pack) {
                Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                removed => removed?,
            }
        }
        let dir = self.files.dir();
        self.files.disk().sync_dir(dir).map_err(|source| self.files.dir_error("sync", source))?;
        Ok(self.index.forget_packs(&dead)?)
    }

    /// One pass over all packs. The third value: the index refers to what is no more, and must be built anew.
    fn run(
        &self,
        packs: &[u32],
        progress: &mut dyn FnMut(&RecoveryReport),
    ) -> Result<(Writer, RecoveryReport, bool), StoreError> {
        let mut writer = Writer::default();
        let mut report = RecoveryReport { packs: packs.len() as u64, ..RecoveryReport::default() };
        self.remove_dead(packs)?;
        let alive = |meta: &PackMeta| meta.state != PackState::Dead;
        let gone = self.known.iter().filter(|(pack, meta)| alive(meta) && !packs.contains(pack));
        report.missing_packs = gone.map(|(pack, _)| *pack).collect();
        let highest = packs.last().max(self.known.keys().last()).copied();
        writer.next_pack = highest.map_or(0, |pack| pack.saturating_add(1));
        let mut stale = !report.missing_packs.is_empty();
        for pack in packs {
            match self.known.get(pack) {
                Some(meta) if meta.state == PackState::Dead => {}
                Some(meta) if !self.fresh && meta.state == PackState::Sealed => {
                    writer.metas.insert(*pack, *meta);
                }
                _ => {
                    stale |= self.pack(*pack, packs.last() == Some(pack), &mut writer, &mut report)?;
                    progress(&report);
                }
            }
        }
        Ok((writer, report, stale && !self.fresh))
    }

    /// Brings one pack in order; `true` if the index knows records of it that are gone.
    fn pack(
        &self,
        pack: u32,
        last: bool,
        writer: &mut Writer,
        report: &mut RecoveryReport,
    ) -> Result<bool, StoreError> {
        report.packs_read += 1;
        let known = self.known.get(&pack).copied().unwrap_or(PackMeta::EMPTY);
        let from = if self.fresh { 0 } else { known.indexed_to };
        let file = self.files.open(pack, Open::Write)?;
        let (len, inspected) = inspect(self.files, pack, file.as_ref(), from)?;
        let (salt, version, sealed, scanned) = match inspected {
            Inspected::Records { salt, version, sealed, scanned } => (salt, version, sealed, scanned),
            Inspected::Blank if known.indexed_to == 0 => {
                self.remove(pack)?;
                report.tails_cut.push(TailCut { pack, offset: 0, bytes: len });
                return Ok(false);
            }
            Inspected::Blank | Inspected::Unreadable => {
                let acknowledged = known.indexed_to > 0;
                report.damaged.push(DamagedRange { pack, from: 0, to: len, acknowledged });
                let meta = meta_of(PackState::Damaged, len.max(1), &[]);
                self.index.publish(&[], &[(pack, meta)], &[])?;
                writer.metas.insert(pack, meta);
                return Ok(acknowledged && known.state != PackState::Damaged);
            }
        };

        let durable_to =
            if sealed { len } else { scanned.proven.max(u64::from(known.indexed_to).min(known_end(&known))) };
        let mut bad = scanned.bad.clone();
        if known.state == PackState::Damaged || scanned.good_end < durable_to || !bad.is_empty() {
            bad.extend((scanned.good_end < len).then_some((scanned.good_end, len)));
        }
        // What a killed process wrote is readable and still not durable: sync before anything is promised.
        let (meta, end) = if !bad.is_empty() {
            for (from, to) in &bad {
                let acknowledged = *from < durable_to || known.state == PackState::Damaged;
                report.damaged.push(DamagedRange { pack, from: *from, to: *to, acknowledged });
            }
            self.sync(pack, file.as_ref())?;
            (meta_of(PackState::Damaged, len, &scanned.entries), len)
        } else if sealed {
            self.sync(pack, file.as_ref())?;
            (meta_of(PackState::Sealed, len, &scanned.entries), len)
        } else {
            let end = scanned.footer_at.unwrap_or(scanned.good_end);
            if end < len {
                file.set_len(end).map_err(|source| self.files.error("cut", pack, source))?;
                report.tails_cut.push(TailCut { pack, offset: end, bytes: len - end });
            }
            self.sync(pack, file.as_ref())?;
            (meta_of(PackState::Open, end, &scanned.entries), end)
        };
        let meta = PackMeta { thinned: known.thinned && !self.fresh, ..meta };
        let stale = known.state != PackState::Damaged && bad.iter().any(|(start, _)| *start < u64::from(from));
        let meta = if meta.state == PackState::Open {
            match self.go_on(pack, last && version == VERSION, salt, end, file, &scanned.entries, writer)? {
                Some(state) => PackMeta { state: state.0, indexed_to: state.1, ..meta },
                None => return Ok(stale), // it was empty and is gone
            }
        } else {
            meta
        };
        report.indexed += publish(self.index, pack, &scanned.entries, meta, from, &self.corrupt)?;
        writer.metas.insert(pack, meta);
        Ok(stale)
    }

    /// Makes a whole but open pack the active one if it is the last and of the newest version, seals it otherwise. Gives its state and the end of what
    /// is in it, or `None` if it was empty and was removed.
    #[allow(clippy::too_many_arguments)] // one caller, and each is another kind of thing
    fn go_on(
        &self,
        pack: u32,
        last: bool,
        salt: u64,
        end: u64,
        file: Arc<dyn DiskFile>,
        entries: &[FooterEntry],
        writer: &mut Writer,
    ) -> Result<Option<(PackState, u32)>, StoreError> {
        let offset =
            u32::try_from(end).map_err(|_| self.files.error("seal", pack, io::ErrorKind::FileTooLarge.into()))?;
        if last && offset < self.options.pack_bytes {
            self.files.insert(pack, OpenPack { file: Arc::clone(&file), salt });
            writer.active = Some(Active { pack, file, salt, offset, synced_to: offset, entries: entries.to_vec() });
            return Ok(Some((PackState::Open, offset)));
        }
        if entries.is_empty() {
            self.remove(pack)?;
            return Ok(None);
        }
        let closing = Active { pack, file, salt, offset, synced_to: offset, entries: entries.to_vec() };
        match closing.seal() {
            Ok(len) => Ok(Some((PackState::Sealed, len))),
            Err(error) if full(&error) => {
                writer.closing.push(closing);
                Ok(Some((PackState::Open, offset)))
            }
            Err(error) => Err(self.files.error("seal", pack, error)),
        }
    }

    fn sync(&self, pack: u32, file: &dyn DiskFile) -> Result<(), StoreError> {
        file.sync_data().map_err(|source| self.files.error("sync", pack, source))
    }

    fn remove(&self, pack: u32) -> Result<(), StoreError> {
        self.files.forget(pack);
        self.files.disk().remove(&self.files.path(pack)).map_err(|source| self.files.error("remove", pack, source))
    }
}

/// The mark of a sealed pack that lost its trailer is no proof that bytes behind its records were records.
fn known_end(known: &PackMeta) -> u64 {
    match known.state {
        PackState::Sealed => PACK_HEADER_BYTES as u64 + known.stored_bytes,
        PackState::Open | PackState::Damaged | PackState::Dead => u64::from(known.indexed_to),
    }
}

/// Fills an empty index of an open store from its packs; everything in them is durable. No pack is changed.
pub(super) fn reindex(
    files: &PackFiles,
    index: &Index,
    writer: &mut Writer,
    corrupt: &Corrupt,
    mut progress: impl FnMut(&RecoveryReport),
) -> Result<RecoveryReport, StoreError> {
    index.clear()?;
    let packs = files.list()?;
    let mut report = RecoveryReport { packs: packs.len() as u64, ..RecoveryReport::default() };
    report.missing_packs = writer.metas.keys().filter(|pack| !packs.contains(pack)).copied().collect();
    writer.metas.retain(|pack, _| packs.contains(pack));
    for pack in packs {
        let state = writer.metas.get(&pack).map_or(PackState::Open, |meta| meta.state);
        let (meta, entries) = match &writer.active {
            Some(active) if active.pack == pack => {
                (meta_of(PackState::Open, u64::from(active.offset), &active.entries), active.entries.clone())
            }
            _ => {
                let opened = files.open(pack, Open::Read)?;
                match inspect(files, pack, opened.as_ref(), 0)? {
                    (len, Inspected::Records { sealed: true, scanned, .. }) => {
                        (meta_of(PackState::Sealed, len, &scanned.entries), scanned.entries)
                    }
                    (len, Inspected::Records { scanned, .. }) => {
                        let bad = scanned.bad.iter().copied();
                        for (from, to) in bad.chain((scanned.good_end < len).then_some((scanned.good_end, len))) {
                            report.damaged.push(DamagedRange { pack, from, to, acknowledged: true });
                        }
                        let state = if state == PackState::Open { state } else { PackState::Damaged };
                        (meta_of(state, len, &scanned.entries), scanned.entries)
                    }
                    (len, Inspected::Blank | Inspected::Unreadable) => {
                        report.damaged.push(DamagedRange { pack, from: 0, to: len, acknowledged: true });
                        (meta_of(PackState::Damaged, len.max(1), &[]), Vec::new())
                    }
                }
            }
        };
        report.packs_read += 1;
        report.indexed += publish(index, pack, &entries, meta, 0, corrupt)?;
        writer.metas.insert(pack, meta);
        progress(&report);
    }
    forget_healed(index, corrupt)?;
    index.persist()?;
    Ok(report)
}
