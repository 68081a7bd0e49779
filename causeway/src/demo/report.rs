//! What the demo measured: narrated as it goes, one table at the end.

use std::time::Duration;

use causeway_base::ByteSize;
use serde::Serialize;

use crate::output::table;

/// One thing that was done and what it cost.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Step {
    pub(super) name: String,
    pub(super) seconds: f64,
    /// Bytes that the user sees: of files read, written or moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) logical_bytes: Option<u64>,
    /// Bytes that a whole-file copy would have sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) whole_file_bytes: Option<u64>,
    /// Data bytes that crossed to the site (QUIC, headers included).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) data_wire_bytes: Option<u64>,
    /// Metadata bytes that crossed to the site (Raft and control over gRPC).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) metadata_wire_bytes: Option<u64>,
    pub(super) note: String,
    /// Whether what it compared was as it had to be.
    pub(super) held: bool,
}

impl Step {
    pub(super) fn new(name: impl Into<String>, took: Duration) -> Self {
        Self {
            name: name.into(),
            seconds: took.as_secs_f64(),
            logical_bytes: None,
            whole_file_bytes: None,
            data_wire_bytes: None,
            metadata_wire_bytes: None,
            note: String::new(),
            held: true,
        }
    }

    pub(super) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    pub(super) fn logical(mut self, bytes: u64) -> Self {
        self.logical_bytes = Some(bytes);
        self
    }

    pub(super) fn whole_file(mut self, bytes: u64) -> Self {
        self.whole_file_bytes = Some(bytes);
        self
    }

    pub(super) fn wire(mut self, wire: Wire) -> Self {
        self.data_wire_bytes = Some(wire.data);
        self.metadata_wire_bytes = Some(wire.metadata);
        self
    }

    pub(super) fn held(mut self, held: bool) -> Self {
        self.held = held;
        self
    }
}

/// Bytes that came to a site.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Wire {
    pub(super) data: u64,
    pub(super) metadata: u64,
}

impl Wire {
    pub(super) fn since(self, before: Self) -> Self {
        Self { data: self.data.saturating_sub(before.data), metadata: self.metadata.saturating_sub(before.metadata) }
    }
}

/// The whole demo.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    pub(super) input: String,
    pub(super) steps: Vec<Step>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) takeover_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rpo_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rto_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) commit_to_verified_millis: Option<Percentiles>,
    pub(super) peak_node_memory_bytes: u64,
    pub(super) differences: Vec<String>,
    pub(super) held: bool,
}

/// Of some repeated measurement.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Percentiles {
    pub(super) samples: usize,
    pub(super) p50: f64,
    pub(super) p99: f64,
}

impl Percentiles {
    pub(super) fn of(mut samples: Vec<f64>) -> Option<Self> {
        samples.sort_by(f64::total_cmp);
        let at = |share: usize| samples.get((samples.len() * share / 100).min(samples.len().checked_sub(1)?)).copied();
        Some(Self { samples: samples.len(), p50: at(50)?, p99: at(99)? })
    }
}

impl Report {
    /// Adds a step and tells it.
    pub(super) fn add(&mut self, step: Step) {
        let mark = if step.held { "ok" } else { "NOT AS IT HAD TO BE" };
        eprintln!(
            "   {mark}: {}{}",
            describe(&step),
            if step.note.is_empty() { String::new() } else { format!("; {}", step.note) }
        );
        self.steps.push(step);
    }

    pub(super) fn table(&self) -> String {
        let size = |bytes: Option<u64>| bytes.map_or_else(String::new, |bytes| ByteSize(bytes).to_string());
        let rows = self.steps.iter().map(|step| {
            vec![
                step.name.clone(),
                format!("{:.2}", step.seconds),
                size(step.logical_bytes),
                size(step.whole_file_bytes),
                size(step.data_wire_bytes),
                size(step.metadata_wire_bytes),
                if step.held { "ok" } else { "NO" }.to_owned(),
            ]
        });
        let header = ["step", "seconds", "logical", "whole files", "data sent", "metadata sent", "held"];
        let mut text = table(&header, &[1, 2, 3, 4, 5], rows);
        text.push('\n');
        let mut figure = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                text.push_str(&format!("{name:<38} {value}\n"));
            }
        };
        let seconds = |value: Option<f64>| value.map(|value| format!("{value:.2} s"));
        figure(
            "commit to verified elsewhere, one file",
            self.commit_to_verified_millis
                .map(|millis| format!("p50 {:.0} ms, p99 {:.0} ms ({} files)", millis.p50, millis.p99, millis.samples)),
        );
        figure("time without writes after SIGKILL", seconds(self.takeover_seconds));
        figure("recovery point (RPO)", seconds(self.rpo_seconds));
        figure("recovery time to first byte (RTO)", seconds(self.rto_seconds));
        figure("most memory of a node", Some(ByteSize(self.peak_node_memory_bytes).to_string()));
        text.push_str(if self.held { "every comparison held\n" } else { "NOT every comparison held; see above\n" });
        text
    }
}

fn describe(step: &Step) -> String {
    let mut text = format!("{} in {:.2} s", step.name, step.seconds);
    if let Some(bytes) = step.logical_bytes {
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)] // for people
        let rate = ByteSize((bytes as f64 / step.seconds.max(1e-3)) as u64);
        text.push_str(&format!(", {} ({rate}/s)", ByteSize(bytes)));
    }
    if let Some(bytes) = step.data_wire_bytes {
        let metadata = ByteSize(step.metadata_wire_bytes.unwrap_or_default());
        text.push_str(&format!(", {} of data and {metadata} of metadata crossed", ByteSize(bytes)));
    }
    if let Some(bytes) = step.whole_file_bytes {
        text.push_str(&format!(", whole files would have been {}", ByteSize(bytes)));
    }
    text
}
