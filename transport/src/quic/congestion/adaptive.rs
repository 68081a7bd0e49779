//! The adaptive controller: follows the delivery rate in the manner of BBR version 1 (Cardwell and others, "BBR:
//! Congestion-Based Congestion Control", 2016; draft-cardwell-iccrg-bbr-congestion-control-00), with delivery rates
//! sampled as in draft-cheng-iccrg-delivery-rate-estimation-00, and with the milder `ProbeRtt` of version 3.
//!
//! Pure: events and their times come in, a rate and a window come out.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Doubles the rate in each round trip: 2 / ln 2.
const STARTUP_GAIN: f64 = 2.885;
/// Gains of the phases of `ProbeBw`, a shortest round trip each: ask for more, give back the queue, cruise.
const CYCLE: [f64; 8] = [1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
/// The phase that gives back the queue, and how many round trips it takes at most.
const GIVE_BACK: usize = 1;
const GIVE_BACK_ROUNDS: u32 = 3;
/// The phase by whose end the effect of asking for more was measured; the growth of the rate that counts as an effect;
/// and how many in a row are more than the noise of a busy host.
const JUDGED: usize = 2;
const PROBE_GREW: f64 = 1.15;
const PROBES_TO_STARTUP: u32 = 2;
/// What may be under way, in products of rate and shortest round trip: room for delayed acknowledgements, and for holding
/// out beside flows that fill the queue.
const WINDOW_GAIN: f64 = 2.0;
/// Rounds that a delivery rate counts for.
const RATE_ROUNDS: u64 = 10;
/// How long a shortest round trip counts for.
const MIN_RTT_LIFE: Duration = Duration::from_secs(10);
/// The shortest round trip that windows and phases are made for: a queue of a millisecond harms nobody, and a busy host is
/// not back sooner.
const MIN_RTT_LEAST: Duration = Duration::from_millis(1);
/// The least time with a short queue that looks for a new shortest round trip.
const PROBE_RTT: Duration = Duration::from_millis(200);
/// A round trip within this of the shortest refreshes it: with a paced sender the queue empties in each cycle.
const MIN_RTT_SLACK: f64 = 1.03;
/// Datagrams of the first window (RFC 9002), and the least window later.
const INITIAL_DATAGRAMS: u64 = 10;
const LEAST_DATAGRAMS: u64 = 4;
/// Datagrams that one segmented send and an acknowledgement that waits for its fellow leave under way on any link.
const BUNCH_DATAGRAMS: u64 = 16;
/// Losses above this share of a round end the startup, and make older delivery rates worthless.
const LOSS_HEAVY: f64 = 0.10;

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Startup,
    Drain,
    ProbeBw { phase: usize, since: Instant },
    ProbeRtt { until: Instant },
}

/// What was known when something was sent.
#[derive(Clone, Copy, Debug)]
struct Mark {
    sent: Instant,
    delivered: u64,
    delivered_at: Instant,
    first_sent: Instant,
    app_limited: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Adaptive {
    state: State,
    mtu: u64,
    delivered: u64,
    delivered_at: Instant,
    first_sent: Instant,
    in_flight: u64,
    /// One for each moment of sending, oldest first.
    marks: VecDeque<Mark>,
    /// The newest packet of the acknowledgement that is being heard.
    newest: Option<Instant>,
    /// Until this much is delivered, samples come from when there was too little to send.
    app_limited_until: Option<u64>,
    round: u64,
    round_ends: u64,
    lost_in_round: u64,
    delivered_before_round: u64,
    /// The largest delivery rate of each recent round, bytes a second.
    rates: VecDeque<(u64, f64)>,
    min_rtt: Option<(Duration, Instant)>,
    /// Rate at which the startup was last seen growing, and rounds since.
    grown_to: f64,
    rounds_flat: u32,
    full: bool,
    /// The rate when a probe for more was last judged, and how many in a row have found more.
    rate_before_probe: f64,
    probes_grown: u32,
}

impl Adaptive {
    pub(super) fn new(now: Instant, mtu: u16) -> Self {
        Self {
            state: State::Startup,
            mtu: mtu.into(),
            delivered: 0,
            delivered_at: now,
            first_sent: now,
            in_flight: 0,
            marks: VecDeque::new(),
            newest: None,
            app_limited_until: None,
            round: 0,
            round_ends: 0,
            lost_in_round: 0,
            delivered_before_round: 0,
            rates: VecDeque::new(),
            min_rtt: None,
            grown_to: 0.0,
            rounds_flat: 0,
            full: false,
            rate_before_probe: f64::MAX,
            probes_grown: 0,
        }
    }

    pub(super) fn set_mtu(&mut self, mtu: u16) {
        self.mtu = mtu.into();
    }

    pub(super) fn on_sent(&mut self, now: Instant, bytes: u64) {
        if self.in_flight == 0 {
            self.first_sent = now;
            self.delivered_at = now;
        }
        self.in_flight += bytes;
        // All packets of one moment know the same.
        if self.marks.back().is_none_or(|mark| mark.sent < now) {
            self.marks.push_back(Mark {
                sent: now,
                delivered: self.delivered,
                delivered_at: self.delivered_at,
                first_sent: self.first_sent,
                app_limited: self.app_limited_until.is_some_and(|until| self.delivered <= until),
            });
        }
    }

    pub(super) fn on_ack(&mut self, sent: Instant, bytes: u64) {
        self.delivered += bytes;
        self.in_flight = self.in_flight.saturating_sub(bytes);
        self.newest = self.newest.max(Some(sent));
    }

    pub(super) fn on_lost(&mut self, bytes: u64) {
        self.in_flight = self.in_flight.saturating_sub(bytes);
        self.lost_in_round += bytes;
    }

    /// The path did not carry anything for long: what was measured of it is worthless.
    pub(super) fn on_persistent_congestion(&mut self, now: Instant) {
        let (marks, delivered, in_flight) = (std::mem::take(&mut self.marks), self.delivered, self.in_flight);
        let mtu = u16::try_from(self.mtu).unwrap_or(u16::MAX);
        *self = Self { marks, delivered, in_flight, round_ends: delivered, ..Self::new(now, mtu) };
        self.delivered_before_round = delivered;
    }

    /// All packets of an acknowledgement were heard. True at the end of a round trip, with the share of its bytes that
    /// were lost.
    pub(super) fn on_end_acks(&mut self, now: Instant, app_limited: bool) -> Option<f64> {
        if app_limited {
            self.app_limited_until = Some(self.delivered + self.in_flight);
        }
        let newest = self.newest.take()?;
        // Marks of packets older than the newest acknowledged are of no more use: rates are taken from the newest.
        let index = self.marks.partition_point(|mark| mark.sent <= newest).checked_sub(1)?;
        let mark = self.marks[index];
        self.marks.drain(..index);
        let rtt = now.saturating_duration_since(newest);
        // The library hears an acknowledgement with the time at which it began its round of work, and on a busy host that is
        // before the packet was sent. A round trip of nothing would leave no room for anything under way.
        if !rtt.is_zero() {
            self.hear_rtt(now, rtt);
        }
        let round_ended = mark.delivered >= self.round_ends;
        let losses = round_ended.then(|| self.end_round());
        let spread =
            now.saturating_duration_since(mark.delivered_at).max(mark.sent.saturating_duration_since(mark.first_sent));
        self.first_sent = mark.sent;
        self.delivered_at = now;
        let min_rtt = self.min_rtt.map_or(rtt, |(rtt, _)| rtt);
        // Over less than a round trip, a burst of acknowledgements looks like a rate.
        if spread >= min_rtt && spread > Duration::ZERO {
            let rate = (self.delivered - mark.delivered) as f64 / spread.as_secs_f64();
            self.hear_rate(rate, mark.app_limited);
        }
        if let Some(losses) = losses {
            self.check_full(losses, mark.app_limited);
        }
        self.step(now, mark.sent, round_ended);
        losses
    }

    /// Bytes a second to send at; none before the first sample.
    pub(super) fn pacing_rate(&self) -> Option<f64> {
        let gain = match self.state {
            State::Startup => STARTUP_GAIN,
            State::Drain => 1.0 / STARTUP_GAIN,
            State::ProbeBw { phase, .. } => CYCLE[phase],
            State::ProbeRtt { .. } => 1.0,
        };
        self.rate().map(|rate| rate * gain)
    }

    /// Bytes that may be under way.
    pub(super) fn window(&self) -> u64 {
        let least = LEAST_DATAGRAMS * self.mtu;
        let Some(product) = self.product() else { return self.initial_window() };
        let gain = match self.state {
            State::Startup | State::Drain => STARTUP_GAIN,
            State::ProbeBw { .. } => WINDOW_GAIN,
            State::ProbeRtt { .. } => 0.5,
        };
        let window = (product * gain) as u64;
        match self.state {
            State::Startup => window.max(self.initial_window()),
            // Room for acknowledgements that come in bunches on short ways.
            State::Drain | State::ProbeBw { .. } => window.max(least) + BUNCH_DATAGRAMS * self.mtu,
            State::ProbeRtt { .. } => window.max(least),
        }
    }

    pub(super) fn initial_window(&self) -> u64 {
        INITIAL_DATAGRAMS * self.mtu
    }

    /// The shortest recent round trip.
    pub(super) fn min_rtt(&self) -> Option<Duration> {
        self.min_rtt.map(|(rtt, _)| rtt)
    }

    fn rate(&self) -> Option<f64> {
        self.rates.iter().map(|(_, rate)| *rate).reduce(f64::max)
    }

    fn product(&self) -> Option<f64> {
        Some(self.rate()? * self.min_rtt?.0.max(MIN_RTT_LEAST).as_secs_f64())
    }

    fn hear_rtt(&mut self, now: Instant, rtt: Duration) {
        match &mut self.min_rtt {
            Some((shortest, heard)) if rtt > *shortest => {
                if rtt.as_secs_f64() <= shortest.as_secs_f64() * MIN_RTT_SLACK {
                    *heard = now;
                }
            }
            other => *other = Some((rtt, now)),
        }
    }

    fn hear_rate(&mut self, rate: f64, app_limited: bool) {
        if app_limited && self.rate().is_some_and(|known| rate < known) {
            return;
        }
        match self.rates.back_mut() {
            Some((round, known)) if *round == self.round => *known = known.max(rate),
            _ => self.rates.push_back((self.round, rate)),
        }
        while self.rates.front().is_some_and(|(round, _)| *round + RATE_ROUNDS < self.round) {
            self.rates.pop_front();
        }
    }

    fn end_round(&mut self) -> f64 {
        self.round += 1;
        self.round_ends = self.delivered;
        let delivered = self.delivered - self.delivered_before_round;
        let lost = std::mem::take(&mut self.lost_in_round);
        self.delivered_before_round = self.delivered;
        if lost == 0 { 0.0 } else { lost as f64 / (lost + delivered) as f64 }
    }

    fn check_full(&mut self, losses: f64, app_limited: bool) {
        if losses > LOSS_HEAVY {
            // What got through in this round is what there is.
            if let Some(latest) = self.rates.back().copied().filter(|_| self.rates.len() > 1) {
                self.rates.clear();
                self.rates.push_back(latest);
            }
        }
        if self.state != State::Startup || app_limited {
            return;
        }
        let rate = self.rate().unwrap_or(0.0);
        if rate >= self.grown_to * 1.25 {
            self.grown_to = rate;
            self.rounds_flat = 0;
        } else {
            self.rounds_flat += 1;
        }
        self.full = self.rounds_flat >= 3 || (losses > LOSS_HEAVY && self.rounds_flat >= 1);
    }

    /// What asking for more has brought, three round trips later: the next phase, or a new startup (`None`). The first
    /// startup may have ended early, when a host stood still or a link was disturbed, and links do become faster; at a
    /// quarter more in eight round trips, finding the rate again would take a minute on a long link.
    fn judge_probe(&mut self) -> Option<usize> {
        let rate = self.rate().unwrap_or(0.0);
        let grown = rate >= self.rate_before_probe * PROBE_GREW;
        self.rate_before_probe = rate;
        self.probes_grown = if grown { self.probes_grown + 1 } else { 0 };
        if self.probes_grown < PROBES_TO_STARTUP {
            return Some(if grown { 0 } else { JUDGED + 1 });
        }
        (self.grown_to, self.rounds_flat, self.full, self.probes_grown) = (rate, 0, false, 0);
        None
    }

    /// Whether no more is under way than the link holds.
    fn is_drained(&self) -> bool {
        self.product().is_some_and(|product| self.in_flight as f64 <= product.max((BUNCH_DATAGRAMS * self.mtu) as f64))
    }

    /// The next state, now that something sent at `acked` was acknowledged.
    fn step(&mut self, now: Instant, acked: Instant, round_ended: bool) {
        let Some((shortest, heard)) = self.min_rtt else { return };
        let min_rtt = shortest.max(MIN_RTT_LEAST);
        match self.state {
            State::Startup if self.full => self.state = State::Drain,
            State::Drain if self.is_drained() => {
                self.state = State::ProbeBw { phase: 2, since: now };
            }
            State::ProbeBw { phase, since } => {
                let passed = now.saturating_duration_since(since);
                // The queue is given back until it is gone (version 1 gives up after one round trip, and what its rates
                // are too large by piles up), but not for ever beside others who keep it full.
                let over = match phase {
                    GIVE_BACK => self.is_drained() || passed > min_rtt * GIVE_BACK_ROUNDS,
                    // On a short way the time between two sends may be far longer than a round trip: no phase is over
                    // before something that was sent in it has arrived, or asking for more would never have an effect.
                    _ => passed > min_rtt && acked >= since,
                };
                if over {
                    let next = if phase == JUDGED { self.judge_probe() } else { Some((phase + 1) % CYCLE.len()) };
                    self.state = next.map_or(State::Startup, |phase| State::ProbeBw { phase, since: now });
                }
            }
            State::ProbeRtt { until } if now >= until && round_ended => {
                self.state = match self.full {
                    true => State::ProbeBw { phase: 2, since: now },
                    false => State::Startup,
                };
                self.min_rtt = Some((shortest, now));
            }
            State::Startup | State::Drain | State::ProbeRtt { .. } => {}
        }
        let stale = now.saturating_duration_since(heard) > MIN_RTT_LIFE;
        if stale && !matches!(self.state, State::ProbeRtt { .. }) {
            self.state = State::ProbeRtt { until: now + PROBE_RTT.max(min_rtt) };
            // Forgotten, so that the next ones count whatever they are.
            self.min_rtt = Some((shortest.mul_f64(1.5), now));
        }
    }
}

#[cfg(test)]
#[path = "adaptive_test.rs"]
mod tests;
