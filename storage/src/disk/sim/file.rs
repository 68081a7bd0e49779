//! One simulated file: what is read now, what is durable, and what a power cut makes of the difference.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use rand::Rng;
use rand::rngs::SmallRng;

use super::pages::{Pages, SECTOR};

/// A file behind its names.
#[derive(Debug, Default)]
pub(super) struct Inode {
    /// What reads show.
    pub(super) now: Pages,
    durable: Pages,
    /// What was done since the last sync, in order.
    pending: Vec<Change>,
    /// Held by each open handle.
    pub(super) handles: Arc<()>,
}

#[derive(Debug)]
enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    SetLen(u64),
}

impl Inode {
    pub(super) fn is_open(&self) -> bool {
        Arc::strong_count(&self.handles) > 1
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.now.write(offset, bytes);
        self.pending.push(Change::Write { offset, bytes: bytes.to_vec() });
    }

    pub(super) fn set_len(&mut self, len: u64) {
        self.now.set_len(len);
        self.pending.push(Change::SetLen(len));
    }

    /// Everything done is durable.
    pub(super) fn sync(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            match change {
                // Whole sectors as they are now: that is what the kernel writes.
                Change::Write { offset, bytes } => {
                    for sector in sectors(offset, bytes.len() as u64) {
                        self.durable.copy_sector(&self.now, sector);
                    }
                }
                Change::SetLen(len) => self.durable.clear_from(len),
            }
        }
        self.durable.force_len(self.now.len());
    }

    /// A sync that failed: some of what was done has reached the disk, and the rest never will, although reads show it
    /// and the next sync succeeds (what Linux does).
    pub(super) fn fail_sync(&mut self, rng: &mut SmallRng) {
        self.durable = self.torn(rng);
        self.pending.clear();
    }

    /// The power goes: what is durable stays, of the rest some sectors.
    pub(super) fn cut_power(&mut self, rng: &mut SmallRng) {
        self.durable = self.torn(rng);
        self.pending.clear();
        self.now = self.durable.clone();
    }

    /// Flips a bit, on the disk and in what is read.
    pub(super) fn flip_bit(&mut self, offset: u64, bit: u8) -> io::Result<()> {
        if offset >= self.now.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for pages in [&mut self.now, &mut self.durable] {
            let mut byte = [0];
            pages.read(offset, &mut byte);
            pages.put(offset, &[byte[0] ^ (1 << (bit % 8))]);
        }
        Ok(())
    }

    /// The durable contents with some of what is pending. Each sector takes on the state that it had after some number
    /// of the changes to it, apart from all others; so does the length.
    fn torn(&self, rng: &mut SmallRng) -> Pages {
        if self.pending.is_empty() {
            return self.durable.clone();
        }
        // The extremes are likely enough to be met with few seeds.
        let fate = match rng.random_range(0..6) {
            0 => Fate::Nothing,
            1 => Fate::Everything,
            _ => Fate::Sectors,
        };
        // A cut reaches what was written beyond it before, also where nothing is any more.
        let written = self.lengths().max().unwrap_or_default().div_ceil(SECTOR);
        let last_sector = self.durable.sectors().max(written);
        let mut touching: BTreeMap<u64, u32> = BTreeMap::new();
        for change in &self.pending {
            for sector in change.sectors(last_sector) {
                *touching.entry(sector).or_default() += 1;
            }
        }
        let mut left: BTreeMap<u64, u32> =
            touching.into_iter().map(|(sector, changes)| (sector, fate.choose(rng, changes))).collect();

        let mut torn = self.durable.clone();
        for change in &self.pending {
            for sector in change.sectors(last_sector) {
                let Some(left) = left.get_mut(&sector).filter(|left| **left > 0) else { continue };
                *left -= 1;
                change.apply_to(&mut torn, sector);
            }
        }
        let lengths: Vec<u64> = std::iter::once(self.durable.len()).chain(self.lengths()).collect();
        let chosen = fate.choose(rng, lengths.len() as u32 - 1);
        let len = lengths[chosen as usize];
        torn.clear_from(len);
        torn.force_len(len);
        torn
    }

    /// The length after each pending change.
    fn lengths(&self) -> impl Iterator<Item = u64> {
        let mut len = self.durable.len();
        self.pending.iter().map(move |change| {
            len = match change {
                Change::Write { offset, bytes } => len.max(offset + bytes.len() as u64),
                Change::SetLen(len) => *len,
            };
            len
        })
    }
}

enum Fate {
    Nothing,
    Everything,
    Sectors,
}

impl Fate {
    /// How many of `changes` are kept.
    fn choose(&self, rng: &mut SmallRng, changes: u32) -> u32 {
        match self {
            Self::Nothing => 0,
            Self::Everything => changes,
            Self::Sectors => rng.random_range(0..=changes),
        }
    }
}

impl Change {
    fn sectors(&self, last_sector: u64) -> Range<u64> {
        match self {
            Self::Write { offset, bytes } => sectors(*offset, bytes.len() as u64),
            Self::SetLen(len) => len / SECTOR..last_sector,
        }
    }

    fn apply_to(&self, pages: &mut Pages, sector: u64) {
        let (start, end) = (sector * SECTOR, (sector + 1) * SECTOR);
        match self {
            Self::Write { offset, bytes } => {
                let from = start.max(*offset);
                let to = end.min(offset + bytes.len() as u64);
                pages.put(from, &bytes[(from - offset) as usize..(to - offset) as usize]);
            }
            Self::SetLen(len) => {
                let from = start.max(*len);
                if from < end {
                    pages.put(from, &vec![0; (end - from) as usize]);
                }
            }
        }
    }
}

fn sectors(offset: u64, len: u64) -> Range<u64> {
    offset / SECTOR..(offset + len).div_ceil(SECTOR)
}
