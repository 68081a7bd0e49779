//! Names in folders: what lookups find now, what is durable, and what a power cut makes of the difference.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use rand::Rng;
use rand::rngs::SmallRng;

/// Names a file's contents.
pub(super) type InodeId = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Dir,
    File(InodeId),
}

/// All names of a disk. Folders are durable as soon as they exist; see [`crate::disk::Disk::create_dir_all`].
#[derive(Debug)]
pub(super) struct Names {
    now: BTreeMap<PathBuf, Node>,
    durable: BTreeMap<PathBuf, Node>,
    /// What was done since the last sync of the folder it was done in, in order.
    pending: Vec<Change>,
}

/// Takes effect as a whole.
#[derive(Clone, Debug)]
struct Change(Vec<(PathBuf, Option<Node>)>);

impl Names {
    pub(super) fn new() -> Self {
        let root = BTreeMap::from([(PathBuf::new(), Node::Dir)]);
        Self { now: root.clone(), durable: root, pending: Vec::new() }
    }

    pub(super) fn get(&self, path: &Path) -> Option<Node> {
        self.now.get(path).copied()
    }

    pub(super) fn is_dir(&self, path: &Path) -> bool {
        self.get(path) == Some(Node::Dir)
    }

    /// The names in a folder.
    pub(super) fn list(&self, folder: &Path) -> Vec<PathBuf> {
        let names = self.now.keys().filter(|path| path.parent() == Some(folder));
        names.filter_map(|path| path.file_name()).map(PathBuf::from).collect()
    }

    pub(super) fn add_dir(&mut self, path: &Path) {
        self.now.insert(path.to_path_buf(), Node::Dir);
        self.durable.insert(path.to_path_buf(), Node::Dir);
    }

    pub(super) fn create(&mut self, path: &Path, inode: InodeId) {
        self.change(vec![(path.to_path_buf(), Some(Node::File(inode)))]);
    }

    pub(super) fn remove(&mut self, path: &Path) {
        self.change(vec![(path.to_path_buf(), None)]);
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) {
        let node = self.get(from);
        if from != to {
            self.change(vec![(from.to_path_buf(), None), (to.to_path_buf(), node)]);
        }
    }

    fn change(&mut self, effects: Vec<(PathBuf, Option<Node>)>) {
        let change = Change(effects);
        change.apply_to(&mut self.now);
        self.pending.push(change);
    }

    /// Makes the names of a folder durable.
    pub(super) fn sync(&mut self, folder: &Path) {
        self.settle(folder, || true);
    }

    /// A sync that failed: some changes are durable, and the rest never will be.
    pub(super) fn fail_sync(&mut self, folder: &Path, rng: &mut SmallRng) {
        self.settle(folder, || rng.random());
    }

    fn settle(&mut self, folder: &Path, mut keep: impl FnMut() -> bool) {
        let pending = std::mem::take(&mut self.pending);
        for change in pending {
            if !change.is_in(folder) {
                self.pending.push(change);
            } else if keep() {
                change.apply_to(&mut self.durable);
            }
        }
    }

    /// The power goes. Each pending change is there or not, whatever came before or after it: POSIX orders none of them.
    pub(super) fn cut_power(&mut self, rng: &mut SmallRng) {
        // The extremes are likely enough to be met with few seeds.
        let probability = match rng.random_range(0..6) {
            0 => 0.0,
            1 => 1.0,
            _ => rng.random_range(0.1..0.9),
        };
        for change in std::mem::take(&mut self.pending) {
            if rng.random_bool(probability) {
                change.apply_to(&mut self.durable);
            }
        }
        self.now = self.durable.clone();
    }

    /// Every file that some name, now or after a power cut, may lead to.
    pub(super) fn inodes(&self) -> impl Iterator<Item = InodeId> {
        let pending = self.pending.iter().flat_map(|change| change.0.iter().filter_map(|(_, node)| *node));
        self.now.values().chain(self.durable.values()).copied().chain(pending).filter_map(Node::inode)
    }

    /// Every file that has a name now; one with two names twice.
    pub(super) fn now_inodes(&self) -> impl Iterator<Item = InodeId> {
        self.now.values().copied().filter_map(Node::inode)
    }
}

impl Node {
    fn inode(self) -> Option<InodeId> {
        match self {
            Self::Dir => None,
            Self::File(inode) => Some(inode),
        }
    }
}

impl Change {
    fn is_in(&self, folder: &Path) -> bool {
        self.0.iter().any(|(path, _)| path.parent() == Some(folder))
    }

    fn apply_to(&self, names: &mut BTreeMap<PathBuf, Node>) {
        for (path, node) in &self.0 {
            match node {
                Some(node) => names.insert(path.clone(), *node),
                None => names.remove(path),
            };
        }
    }
}

/// A path as a key: without the root, `.` and `..`.
pub(super) fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::ParentDir => {
                normal.pop();
            }
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
    normal
}
