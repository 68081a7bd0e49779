//! Rates, prices and round-trip times as people write them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A text that is not the quantity it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {kind}: expected a number and a unit such as {example}")]
pub struct ParseUnitError {
    kind: &'static str,
    example: &'static str,
    text: String,
}

/// A whole number with up to nine decimals times `unit`, or `None` if it is no number or does not fit.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let whole: u64 = whole.parse().ok()?;
    let fraction: u128 = fraction.parse().ok()?;
    u64::try_from(u128::from(whole) * u128::from(unit) + fraction * u128::from(unit) / scale).ok()
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let trimmed = text.trim();
    units.iter().find_map(|(name, unit)| scaled(trimmed.strip_suffix(name)?.trim_end(), *unit))
}

fn show(f: &mut fmt::Formatter<'_>, value: u64, units: &[(&str, u64)]) -> fmt::Result {
    let found = units.iter().find(|(_, unit)| value != 0 && value.is_multiple_of(*unit));
    let (name, unit) = found.or_else(|| units.last()).copied().unwrap_or(("", 1));
    f.pad(&format!("{}{name}", value / unit))
}

/// Bits per second. Text form: `1Gbit/s`, `50Mbit/s`, `512kbit/s`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BitRate(pub u64);

const RATES: [(&str, u64); 4] = [("Gbit/s", 1_000_000_000), ("Mbit/s", 1_000_000), ("kbit/s", 1_000), ("bit/s", 1)];

impl BitRate {
    /// Time to send `bytes` at this rate; the largest duration if the rate is 0.
    #[must_use]
    pub fn time_of(self, bytes: u64) -> Duration {
        let nanos = (u128::from(bytes) * 8_000_000_000).checked_div(u128::from(self.0));
        nanos.and_then(|nanos| u64::try_from(nanos).ok()).map_or(Duration::MAX, Duration::from_nanos)
    }
}

impl FromStr for BitRate {
    type Err = ParseUnitError;

    fn from_str(text: &str) -> Result<Self, ParseUnitError> {
        let fail = || ParseUnitError { kind: "rate", example: "1Gbit/s", text: text.chars().take(64).collect() };
        parse(text, &RATES).map(Self).ok_or_else(fail)
    }
}

impl fmt::Display for BitRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, self.0, &RATES)
    }
}

/// What a GiB costs to send or read, in millionths of the operator's currency. Text form: a decimal number, `0.087`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Price(pub u64);

impl Price {
    /// What `bytes` cost, in millionths; saturates.
    #[must_use]
    pub fn of(self, bytes: u64) -> u64 {
        u64::try_from((u128::from(self.0) * u128::from(bytes)) >> 30).unwrap_or(u64::MAX)
    }
}

impl FromStr for Price {
    type Err = ParseUnitError;

    fn from_str(text: &str) -> Result<Self, ParseUnitError> {
        let fail = || ParseUnitError { kind: "price", example: "0.087", text: text.chars().take(64).collect() };
        scaled(text.trim(), 1_000_000).map(Self).ok_or_else(fail)
    }
}

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000))
    }
}

macro_rules! text_conversions {
    ($name:ty) => {
        impl TryFrom<String> for $name {
            type Error = ParseUnitError;

            fn try_from(text: String) -> Result<Self, ParseUnitError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }
    };
}

text_conversions!(BitRate);
text_conversions!(Price);

/// A round-trip time in files: `20ms`, `1.5ms`, `200us`, `1s`.
pub mod rtt_text {
    use serde::{Deserializer, Serializer, de::Error};

    use super::{Deserialize, Duration, parse};

    const TIMES: [(&str, u64); 4] = [("ms", 1_000_000), ("us", 1_000), ("ns", 1), ("s", 1_000_000_000)];

    /// Writes whole nanoseconds in the largest unit that divides them.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(rtt: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        let nanos = u64::try_from(rtt.as_nanos()).unwrap_or(u64::MAX);
        let (name, unit) = [("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000)]
            .into_iter()
            .find(|(_, unit)| nanos.is_multiple_of(*unit))
            .unwrap_or(("ns", 1));
        serializer.serialize_str(&format!("{}{name}", nanos / unit))
    }

    /// Reads the text form.
    ///
    /// # Errors
    /// The text is no time.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        let nanos = parse(&text, &TIMES).ok_or_else(|| {
            let text: String = text.chars().take(64).collect();
            D::Error::custom(format!("{text:?} is not a time: a number and a unit are expected, such as 20ms"))
        })?;
        Ok(Duration::from_nanos(nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_prices_are_read_and_shown() {
        for (text, bits) in [("1Gbit/s", 1_000_000_000), ("1.5 Mbit/s", 1_500_000), ("0bit/s", 0), ("7bit/s", 7)] {
            let rate: BitRate = text.parse().unwrap();
            assert_eq!(rate, BitRate(bits), "{text}");
            assert_eq!(rate.to_string().parse::<BitRate>(), Ok(rate));
        }
        assert_eq!("0.087".parse::<Price>(), Ok(Price(87_000)));
        assert_eq!(Price(87_000).of(2 << 30), 174_000);
        for text in ["", "1", "Gbit/s", "-1Mbit/s", "1e3bit/s", "99999999999Gbit/s", "1.Mbit/s"] {
            assert!(text.parse::<BitRate>().is_err(), "{text}");
        }
        for text in ["", "-1", "1,5", "."] {
            assert!(text.parse::<Price>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_rate_says_how_long_bytes_take() {
        assert_eq!(BitRate(1_000_000_000).time_of(125_000_000), Duration::from_secs(1));
        assert_eq!(BitRate(0).time_of(1), Duration::MAX);
    }
}
