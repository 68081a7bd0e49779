//! A disk in memory that is stricter than a real one: for tests and simulation.
//!
//! What it holds against its user:
//!
//! - What was not synced before [`SimDisk::crash`] is lost, kept or torn at sectors of 512 bytes, each sector apart from
//!   all others; the length of a file apart from its contents.
//! - Names that were created, renamed or removed in a folder that was not synced since are there or not, in any
//!   combination: a synced file can lose its name, a rename can stay while the creation before it is lost.
//! - A sync that fails has synced some of it, and the rest is never synced, although reads show it and the next sync
//!   succeeds. It is gone after the next crash.
//! - A full disk ([`SimDisk::set_capacity`]) takes a part of a write.
//! - Operations fail with `EIO` where a [`Fault`] says so, bits flip where [`SimDisk::flip_bit`] says so, and the power
//!   goes at the operation that [`SimDisk::cut_power_at`] names.
//!
//! The same seed and the same calls in the same order give the same outcome. It is one lock: not for measuring.

mod fault;
mod file;
mod names;
mod pages;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

pub use fault::{Fault, Operation};

use super::{Disk, DiskFile, Open};
use file::Inode;
use names::{InodeId, Names, Node, normal};

/// The simulated disk; clones are the same disk. See the module for what it simulates.
#[derive(Clone, Debug)]
pub struct SimDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    rng: SmallRng,
    names: Names,
    inodes: BTreeMap<InodeId, Inode>,
    next_inode: InodeId,
    capacity: u64,
    faults: Vec<Fault>,
    /// Counts crashes; handles of before are dead.
    boot: u64,
    power: Power,
    operations: u64,
    mutations: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Power {
    On,
    /// Goes at this mutation.
    Until(u64),
    Off,
}

/// What becomes of an operation.
enum Verdict {
    Done,
    /// It fails with `EIO`, half done.
    Fails,
    /// It is half done when the power goes.
    PowerGoes,
}

impl SimDisk {
    /// An empty disk of unlimited size.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            rng: SmallRng::seed_from_u64(seed),
            names: Names::new(),
            inodes: BTreeMap::new(),
            next_inode: 0,
            capacity: u64::MAX,
            faults: Vec::new(),
            boot: 0,
            power: Power::On,
            operations: 0,
            mutations: 0,
        })))
    }

    /// Cuts the power and turns it on again. Open files are dead; what was not synced is lost, kept or torn by chance.
    /// Faults and a planned power cut are forgotten.
    pub fn crash(&self) {
        let state = &mut *self.lock();
        state.names.cut_power(&mut state.rng);
        for inode in state.inodes.values_mut() {
            inode.cut_power(&mut state.rng);
        }
        state.boot += 1;
        state.power = Power::On;
        state.faults.clear();
        state.collect();
    }

    /// Lets the power go at the `n`th mutation from now (counted from 0), half way through it: that one and all
    /// operations after it fail until [`SimDisk::crash`].
    pub fn cut_power_at(&self, n: u64) {
        let mut state = self.lock();
        state.power = Power::Until(state.mutations + n);
    }

    /// Whether the power has gone and [`SimDisk::crash`] has not been called since.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.lock().power == Power::Off
    }

    /// Operations so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Operations so far that change what a power cut may leave.
    #[must_use]
    pub fn mutations(&self) -> u64 {
        self.lock().mutations
    }

    /// Adds a fault. Several may be there at once.
    pub fn inject(&self, fault: Fault) {
        self.lock().faults.push(fault);
    }

    /// Forgets all faults.
    pub fn clear_faults(&self) {
        self.lock().faults.clear();
    }

    /// Bytes that files may take up together, in pages of 4 KiB that were written to.
    pub fn set_capacity(&self, bytes: u64) {
        self.lock().capacity = bytes;
    }

    /// Bytes that files take up.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.lock().used()
    }

    /// Flips one bit of a file, in what is read and on the disk.
    ///
    /// # Errors
    /// `NotFound`; `UnexpectedEof` if the file is not that long.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) -> io::Result<()> {
        let mut state = self.lock();
        let inode = state.file(&normal(path))?;
        state.inode(inode)?.flip_bit(offset, bit)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A test that panics in one thread may go on looking at the disk in another.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Counts an operation and says what becomes of it.
    fn begin(&mut self, operation: Operation, path: &Path) -> io::Result<Verdict> {
        if self.power == Power::Off {
            return Err(power_is_off());
        }
        self.operations += 1;
        if operation.is_mutation() {
            let this = self.mutations;
            self.mutations += 1;
            if matches!(self.power, Power::Until(at) if this >= at) {
                self.power = Power::Off;
                return Ok(Verdict::PowerGoes);
            }
        }
        // All of them count, not just the first that strikes.
        let struck = self.faults.iter_mut().filter_map(|fault| fault.strikes(operation, path).then_some(())).count();
        Ok(if struck > 0 { Verdict::Fails } else { Verdict::Done })
    }

    /// [`State::begin`] for what is done whole or not at all.
    fn begin_whole(&mut self, operation: Operation, path: &Path) -> io::Result<()> {
        match self.begin(operation, path)? {
            Verdict::Done => Ok(()),
            Verdict::Fails => Err(eio()),
            Verdict::PowerGoes => Err(power_is_off()),
        }
    }

    fn file(&self, path: &Path) -> io::Result<InodeId> {
        match self.names.get(path) {
            Some(Node::File(inode)) => Ok(inode),
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn dir(&self, path: &Path) -> io::Result<()> {
        match self.names.get(path) {
            Some(Node::Dir) => Ok(()),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn inode(&mut self, inode: InodeId) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&inode).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// What has no name now takes up nothing, unless it is open.
    fn used(&self) -> u64 {
        let named: BTreeSet<InodeId> = self.names.now_inodes().collect();
        let counted = self.inodes.iter().filter(|(id, inode)| named.contains(id) || inode.is_open());
        counted.map(|(_, inode)| inode.now.allocated()).sum()
    }

    fn free(&self) -> u64 {
        self.capacity.saturating_sub(self.used())
    }

    /// Drops files that nothing leads to any more.
    fn collect(&mut self) {
        let reachable: BTreeSet<InodeId> = self.names.inodes().collect();
        self.inodes.retain(|id, inode| reachable.contains(id) || inode.is_open());
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let path = normal(path);
        let mut state = self.lock();
        let operation = if how == Open::CreateNew { Operation::Create } else { Operation::Open };
        state.begin_whole(operation, &path)?;
        let inode = if how == Open::CreateNew {
            state.dir(parent(&path)?)?;
            if state.names.get(&path).is_some() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            if state.free() == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let inode = state.next_inode;
            state.next_inode += 1;
            state.inodes.insert(inode, Inode::default());
            state.names.create(&path, inode);
            inode
        } else {
            state.file(&path)?
        };
        let handle = Arc::clone(&state.inode(inode)?.handles);
        let (boot, writable) = (state.boot, how != Open::Read);
        Ok(Arc::new(SimFile { disk: self.clone(), path, inode, boot, writable, _handle: handle }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let path = normal(path);
        let mut state = self.lock();
        let verdict = state.begin(Operation::CreateDir, &path)?;
        let mut missing: Vec<PathBuf> = Vec::new();
        for folder in path.ancestors() {
            match state.names.get(folder) {
                Some(Node::Dir) => break,
                Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                None => missing.push(folder.to_path_buf()),
            }
        }
        missing.reverse();
        if !matches!(verdict, Verdict::Done) {
            let created = state.rng.random_range(0..=missing.len());
            missing.truncate(created);
        }
        for folder in &missing {
            state.names.add_dir(folder);
        }
        verdict.result()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let path = normal(path);
        let mut state = self.lock();
        state.begin_whole(Operation::List, &path)?;
        state.dir(&path)?;
        Ok(state.names.list(&path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (normal(from), normal(to));
        let mut state = self.lock();
        let verdict = state.begin(Operation::Rename, &from)?;
        state.file(&from)?;
        state.dir(parent(&to)?)?;
        if state.names.is_dir(&to) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        // A rename that the power cut meets may have happened; one that fails has not.
        if !matches!(verdict, Verdict::Fails) {
            state.names.rename(&from, &to);
        }
        verdict.result()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let path = normal(path);
        let mut state = self.lock();
        let verdict = state.begin(Operation::Remove, &path)?;
        state.file(&path)?;
        if !matches!(verdict, Verdict::Fails) {
            state.names.remove(&path);
        }
        verdict.result()
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let path = normal(path);
        let state = &mut *self.lock();
        let verdict = state.begin(Operation::SyncDir, &path)?;
        state.dir(&path)?;
        match verdict {
            Verdict::Done => state.names.sync(&path),
            Verdict::Fails | Verdict::PowerGoes => state.names.fail_sync(&path, &mut state.rng),
        }
        state.collect();
        verdict.result()
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let mut state = self.lock();
        state.begin_whole(Operation::FreeBytes, &normal(path))?;
        Ok(state.free())
    }
}

impl Verdict {
    fn result(&self) -> io::Result<()> {
        match self {
            Self::Done => Ok(()),
            Self::Fails => Err(eio()),
            Self::PowerGoes => Err(power_is_off()),
        }
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    path: PathBuf,
    inode: InodeId,
    boot: u64,
    writable: bool,
    _handle: Arc<()>,
}

impl SimFile {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.lock();
        if state.boot != self.boot || state.power == Power::Off {
            return Err(power_is_off());
        }
        Ok(state)
    }

    fn writable_state(&self) -> io::Result<MutexGuard<'_, State>> {
        if !self.writable {
            return Err(rustix::io::Errno::BADF.into());
        }
        self.state()
    }
}

impl DiskFile for SimFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.state()?;
        state.begin_whole(Operation::Read, &self.path)?;
        let pages = &state.inode(self.inode)?.now;
        if offset.checked_add(buffer.len() as u64).is_none_or(|end| end > pages.len()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        pages.read(offset, buffer);
        Ok(())
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.writable_state()?;
        let verdict = state.begin(Operation::Write, &self.path)?;
        if matches!(verdict, Verdict::Fails) {
            let written = state.rng.random_range(0..=bytes.len());
            state.inode(self.inode)?.write(offset, &bytes[..written]);
            return verdict.result();
        }
        let free = state.free();
        let inode = state.inode(self.inode)?;
        let mut fits = bytes.len();
        while fits > 0 && inode.now.allocation_of(offset, fits as u64) > free {
            // To the end of the page before.
            let end = offset + fits as u64 - 1;
            fits = (end - end % pages::PAGE).saturating_sub(offset) as usize;
        }
        inode.write(offset, &bytes[..fits]);
        verdict.result()?;
        if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.state()?.inode(self.inode)?.now.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.writable_state()?;
        let verdict = state.begin(Operation::SetLen, &self.path)?;
        if !matches!(verdict, Verdict::Fails) {
            state.inode(self.inode)?.set_len(len);
        }
        verdict.result()
    }

    fn sync_data(&self) -> io::Result<()> {
        let state = &mut *self.state()?;
        let verdict = state.begin(Operation::SyncData, &self.path)?;
        let inode = state.inodes.get_mut(&self.inode).ok_or(io::ErrorKind::NotFound)?;
        match verdict {
            Verdict::Done => inode.sync(),
            Verdict::Fails | Verdict::PowerGoes => inode.fail_sync(&mut state.rng),
        }
        verdict.result()
    }
}

fn parent(path: &Path) -> io::Result<&Path> {
    path.parent().ok_or_else(|| io::ErrorKind::IsADirectory.into())
}

fn eio() -> io::Error {
    rustix::io::Errno::IO.into()
}

fn power_is_off() -> io::Error {
    io::Error::other("the simulated power is off")
}
