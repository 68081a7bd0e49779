//! The names of objects. They say nothing about content: random numbers, hashes and counters.

use std::sync::{Mutex, PoisonError};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use causeway_base::{ClusterId, Timestamp, VolumeId};

/// The marker of a repository.
pub(crate) const MARKER: &str = "causeway-repository";
/// Folder of the pack indexes.
pub(crate) const INDEX: &str = "index";
/// Folder of the packs.
pub(crate) const PACKS: &str = "packs";
/// Folder of what drills found.
pub(crate) const DRILLS: &str = "drills";
/// Folder of the volumes' images.
pub(crate) const VOLUMES: &str = "volumes";

/// Draws random names; seeded, so that a simulation can repeat them.
#[derive(Debug)]
pub(crate) struct Names(Mutex<StdRng>);

impl Names {
    pub(crate) fn new(seed: Option<u64>) -> Self {
        Self(Mutex::new(seed.map_or_else(StdRng::from_os_rng, StdRng::seed_from_u64)))
    }

    pub(crate) fn draw(&self) -> u128 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).random()
    }

    /// A factor from 0.5 to 1.5.
    pub(crate) fn jitter(&self) -> f64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).random_range(0.5..1.5)
    }
}

/// The folder of a volume: a hash, so that two clusters may share a repository and a listing tells no numbers.
pub(crate) fn volume_directory(cluster: ClusterId, volume: VolumeId) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("causeway repository volume directory v1");
    hasher.update(&cluster.0.to_be_bytes());
    hasher.update(&volume.0.to_be_bytes());
    hex::encode(&hasher.finalize().as_bytes()[..16])
}

/// What a drill found; the complement of its time in milliseconds comes first, so that the newest is listed first.
pub(crate) fn drill(at: Timestamp, token: u128) -> String {
    let millis = u64::try_from(at.0 / 1_000_000).unwrap_or(0);
    format!("{DRILLS}/{:020}.{token:032x}", u64::MAX - millis)
}

pub(crate) fn heads(directory: &str) -> String {
    format!("{VOLUMES}/{directory}/heads")
}

pub(crate) fn head(directory: &str, generation: u64) -> String {
    format!("{VOLUMES}/{directory}/heads/{}", head_name(generation))
}

/// The complement of the generation comes first, so that the newest head is the first name of a listing: one page of one
/// listing finds it, however many there are.
pub(crate) fn head_name(generation: u64) -> String {
    format!("{:020}.{generation}", u64::MAX - generation)
}

/// The generation of a head's name; `None` for any other name.
pub(crate) fn head_generation(name: &str) -> Option<u64> {
    let (_, generation) = name.split_once('.')?;
    let generation = generation.parse().ok()?;
    (head_name(generation) == name).then_some(generation)
}

pub(crate) fn run_folder(directory: &str) -> String {
    format!("{VOLUMES}/{directory}/runs")
}

pub(crate) fn segment(directory: &str, name: u128) -> String {
    format!("{VOLUMES}/{directory}/runs/{name:032x}")
}

pub(crate) fn index(name: u128) -> String {
    format!("{INDEX}/{name:032x}")
}

/// Packs are spread over 256 folders: a directory backend stays quick.
pub(crate) fn pack(name: u128) -> String {
    format!("{PACKS}/{:02x}/{name:032x}", name >> 120)
}

/// The number in the name of a segment, index or pack.
pub(crate) fn number(name: &str) -> Option<u128> {
    (name.len() == 32).then(|| u128::from_str_radix(name, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_head_is_the_first_name() {
        let mut names: Vec<_> = [1, 9, 10, 11, 99, 100, 1 << 40, u64::MAX].map(head_name).to_vec();
        names.sort();
        let generations: Vec<_> = names.iter().map(|name| head_generation(name).unwrap()).collect();
        assert_eq!(generations, [u64::MAX, 1 << 40, 100, 99, 11, 10, 9, 1]);
    }

    #[test]
    fn other_names_are_no_heads() {
        for name in ["", "1", "x.1", "18446744073709551614.2", "18446744073709551614.+1", "18446744073709551614.1.tmp"]
        {
            assert_eq!(head_generation(name), None, "{name}");
        }
    }
}
