//! Whether deltas pay, by what they save and what they cost.

/// Bytes and time of one step of work or transfer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Plain bytes that went in.
    pub plain_bytes: u64,
    /// Bytes that came out for the wire.
    pub wire_bytes: u64,
    /// Seconds of one core.
    pub core_seconds: f64,
}

/// Decides between sending chunks as deltas and sending them whole. Pure: told what was measured, it says what pays.
///
/// Either way delivers plain bytes at the lower of two rates: that of the cores which encode, and that of the link times what
/// a wire byte stands for. Deltas pay if theirs is the higher one. On a fast link they starve it, on a slow one they multiply
/// it; at the rate between ([`DeltaSwitch::starves_above`]) both are equal. To switch, the other way must be a tenth better,
/// so that noise does not make it flap. While off, the caller tries a delta now and then (one chunk in
/// [`DeltaSwitch::PROBE_ONE_IN`]) so that what was measured stays true.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeltaSwitch {
    cores: f64,
    link_bytes_per_s: f64,
    whole: Mean,
    delta: Mean,
    on: bool,
}

/// Means that forget: of plain bytes a core second, and of wire bytes a plain byte.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Mean {
    plain_per_s: f64,
    wire_per_plain: f64,
}

/// Plain bytes after which a mean has forgotten about 2/3.
const MEMORY_BYTES: f64 = (16 << 20) as f64;
/// How much better the other way must be.
const MARGIN: f64 = 1.1;

impl Mean {
    fn add(&mut self, step: Step) {
        let plain = step.plain_bytes as f64;
        if plain <= 0.0 || !step.core_seconds.is_finite() || step.core_seconds <= 0.0 {
            return;
        }
        let weight = 1.0 - (-plain / MEMORY_BYTES).exp();
        // Seconds a byte are what adds up; a mean of rates would be too high.
        let seconds = (1.0 - weight) / self.plain_per_s + weight * step.core_seconds / plain;
        self.plain_per_s = 1.0 / seconds;
        self.wire_per_plain += weight * (step.wire_bytes as f64 / plain - self.wire_per_plain);
    }

    /// Plain bytes a second that arrive.
    fn delivers(&self, cores: f64, link_bytes_per_s: f64) -> f64 {
        (self.plain_per_s * cores).min(link_bytes_per_s / self.wire_per_plain.max(1e-6))
    }
}

impl DeltaSwitch {
    /// While off, one chunk in so many is tried as a delta all the same.
    pub const PROBE_ONE_IN: u32 = 64;

    /// A switch for `cores` that encode and a link of so many bytes a second. Until told better it takes what was measured
    /// (docs/deltas.md): 500 MB/s a core and a ratio of 0.4 whole, 250 MB/s and 0.2 as deltas.
    #[must_use]
    pub fn new(cores: usize, link_bytes_per_s: u64) -> Self {
        let mut switch = Self {
            cores: cores.max(1) as f64,
            link_bytes_per_s: link_bytes_per_s.max(1) as f64,
            whole: Mean { plain_per_s: 500e6, wire_per_plain: 0.4 },
            delta: Mean { plain_per_s: 250e6, wire_per_plain: 0.2 },
            on: true,
        };
        switch.decide();
        switch
    }

    /// The link's rate, as measured or configured.
    pub fn link(&mut self, bytes_per_s: u64) {
        self.link_bytes_per_s = bytes_per_s.max(1) as f64;
        self.decide();
    }

    /// Chunks were encoded whole.
    pub fn whole(&mut self, step: Step) {
        self.whole.add(step);
        self.decide();
    }

    /// Chunks were tried as deltas; `wire_bytes` is what was sent in the end, were it a delta or not.
    pub fn delta(&mut self, step: Step) {
        self.delta.add(step);
        self.decide();
    }

    /// Whether to try deltas.
    #[must_use]
    pub const fn pays(&self) -> bool {
        self.on
    }

    /// The link rate, in bytes a second, above which encoding deltas would be slower than the link.
    #[must_use]
    pub fn starves_above(&self) -> f64 {
        self.delta.plain_per_s * self.cores * self.delta.wire_per_plain
    }

    fn decide(&mut self) {
        let whole = self.whole.delivers(self.cores, self.link_bytes_per_s);
        let delta = self.delta.delivers(self.cores, self.link_bytes_per_s);
        self.on = if self.on { delta * MARGIN >= whole } else { delta > whole * MARGIN };
    }
}

/// Decides whether a chunk is also tried against a wide base, by what that saved so far. Pure.
///
/// A second of one core spent on it is well spent if it saves more bytes than the link sends in that time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WideSwitch {
    saved_per_s: f64,
}

/// Seconds of one core after which what wide bases saved is forgotten to 2/3.
const WIDE_MEMORY_S: f64 = 0.25;

impl Default for WideSwitch {
    /// As if they saved 10 MB a second of one core, until told better (docs/deltas.md).
    fn default() -> Self {
        Self { saved_per_s: 10e6 }
    }
}

impl WideSwitch {
    /// Whether to try, at a link of so many bytes a second. While not, one chunk in [`DeltaSwitch::PROBE_ONE_IN`] should be.
    #[must_use]
    pub fn pays(&self, link_bytes_per_s: u64) -> bool {
        self.saved_per_s >= link_bytes_per_s as f64
    }

    /// A try saved so many bytes, perhaps none, and took so many seconds of one core.
    pub fn tried(&mut self, saved_bytes: u64, core_seconds: f64) {
        if core_seconds.is_finite() && core_seconds > 0.0 {
            let weight = 1.0 - (-core_seconds / WIDE_MEMORY_S).exp();
            self.saved_per_s += weight * (saved_bytes as f64 / core_seconds - self.saved_per_s);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MBIT: u64 = 125_000;

    fn step(plain_mb: u64, ratio: f64, mb_per_s: f64) -> Step {
        let plain_bytes = plain_mb * 1_000_000;
        Step { plain_bytes, wire_bytes: (plain_bytes as f64 * ratio) as u64, core_seconds: plain_mb as f64 / mb_per_s }
    }

    #[test]
    fn deltas_pay_on_a_slow_link_and_starve_a_fast_one() {
        assert!(DeltaSwitch::new(2, 100 * MBIT).pays());
        assert!(!DeltaSwitch::new(2, 40_000 * MBIT).pays());
        let mut switch = DeltaSwitch::new(2, 100 * MBIT);
        switch.link(40_000 * MBIT);
        assert!(!switch.pays());
        switch.link(100 * MBIT);
        assert!(switch.pays());
    }

    #[test]
    fn what_saves_nothing_and_costs_time_is_switched_off() {
        let mut switch = DeltaSwitch::new(2, 4_000 * MBIT);
        for _ in 0..100 {
            switch.whole(step(1, 1.0, 700.0));
            switch.delta(step(1, 0.99, 90.0));
        }
        assert!(!switch.pays());
        for _ in 0..100 {
            switch.delta(step(1, 0.01, 1_000.0));
        }
        assert!(switch.pays(), "and on again when it saves: {switch:?}");
    }

    #[test]
    fn near_the_edge_it_stays_as_it_is() {
        let mut switch = DeltaSwitch::new(1, 100 * MBIT);
        for _ in 0..200 {
            switch.whole(step(1, 0.5, 10_000.0));
            switch.delta(step(1, 0.49, 250.0));
        }
        switch.link(1_000 * MBIT);
        // Whole delivers 250 MB/s (the link), deltas 250 MB/s (the core).
        assert!(switch.pays());
        assert!((switch.starves_above() / 1e6 - 122.5).abs() < 2.0, "{}", switch.starves_above());
        switch.link(1_050 * MBIT);
        assert!(switch.pays());
        switch.link(1_200 * MBIT);
        assert!(!switch.pays());
        switch.link(1_000 * MBIT);
        assert!(!switch.pays());
        switch.link(700 * MBIT);
        assert!(!switch.pays(), "0.49 against 0.5 is not worth a switch");
    }

    #[test]
    fn wide_bases_are_tried_while_they_save_more_than_the_link_sends() {
        let mut switch = WideSwitch::default();
        assert!(switch.pays(10 * MBIT) && !switch.pays(1_000 * MBIT));
        for _ in 0..500 {
            switch.tried(100, 2e-3);
        }
        assert!(!switch.pays(10 * MBIT), "50 kB a second: {switch:?}");
        for _ in 0..500 {
            switch.tried(60_000, 1e-3);
        }
        assert!(switch.pays(400 * MBIT), "60 MB a second: {switch:?}");
        let before = switch;
        switch.tried(1_000, 0.0);
        switch.tried(1_000, f64::NAN);
        assert_eq!(switch, before);
    }

    #[test]
    fn nonsense_changes_nothing() {
        let before = DeltaSwitch::new(2, 1_000 * MBIT);
        let mut switch = before;
        for seconds in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            switch.delta(Step { plain_bytes: 5, wire_bytes: 5, core_seconds: seconds });
            switch.whole(Step { plain_bytes: 0, wire_bytes: 5, core_seconds: 1.0 });
        }
        assert_eq!(switch, before);
    }
}
