//! Durations as people write them.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

/// A duration such as `100ms`, `2s` or `1h 30m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HumanDuration(pub Duration);

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text).map(Self).map_err(|error| {
            serde::de::Error::custom(format!(
                "{text:?} is not a duration ({error}); write for example \"100ms\" or \"2s\""
            ))
        })
    }
}
