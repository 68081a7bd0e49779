//! Samples, and the text that a scraper reads.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::definitions::{ALL, Kind, Metric};

/// A label's value as it stands between quotes: the library writes it as it is.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The values of one moment, by metric.
#[derive(Debug, Default)]
pub(super) struct Samples(BTreeMap<&'static str, Vec<(Labels, f64)>>);

/// Names and values, in the metric's order.
type Labels = Vec<(&'static str, String)>;

impl Samples {
    /// Adds a value; `labels` are those of the metric, in its order.
    pub(super) fn add(&mut self, metric: &Metric, labels: &[&str], value: f64) {
        debug_assert_eq!(metric.labels.len(), labels.len(), "{}", metric.name);
        let labels = metric.labels.iter().copied().zip(labels.iter().copied().map(escaped)).collect();
        self.0.entry(metric.name).or_default().push((labels, value));
    }

    /// A count or a size. Beyond 2^53 the last digits are rounded.
    pub(super) fn count(&mut self, metric: &Metric, labels: &[&str], value: u64) {
        self.add(metric, labels, value as f64);
    }

    /// 1 or 0.
    pub(super) fn flag(&mut self, metric: &Metric, labels: &[&str], value: bool) {
        self.add(metric, labels, f64::from(u8::from(value)));
    }

    /// The OpenMetrics text.
    pub(super) fn encode(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut out = String::new();
        text::encode(&mut out, &registry)?;
        Ok(out)
    }
}

impl Collector for Samples {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for metric in ALL {
            let Some(samples) = self.0.get(metric.name) else { continue };
            let kind = match metric.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
            };
            let mut family = encoder.encode_descriptor(metric.name, metric.help, None, kind)?;
            for (labels, value) in samples {
                match labels.is_empty() {
                    true => one(&mut family, metric.kind, *value)?,
                    false => one(&mut family.encode_family(labels)?, metric.kind, *value)?,
                }
            }
        }
        Ok(())
    }
}

fn one(encoder: &mut MetricEncoder<'_>, kind: Kind, value: f64) -> Result<(), fmt::Error> {
    match kind {
        Kind::Counter => encoder.encode_counter::<NoLabelSet, f64, f64>(&value, None),
        Kind::Gauge => encoder.encode_gauge(&value),
    }
}
