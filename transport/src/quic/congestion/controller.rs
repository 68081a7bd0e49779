//! What the QUIC library sees of it: a controller that is told its lane once the peer is known.

use std::any::Any;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory};
// Not exported by `quinn`, which makes this the only reason for the dependency.
use quinn_proto::RttEstimator;

use super::Lane;
use super::adaptive::Adaptive;

/// What may be under way on a link with a stated rate, in products of rate and round trip. The rate is kept by the
/// socket, so the excess builds no queue; it covers late acknowledgements and packets that were lost but not missed yet.
const PACED_WINDOW_GAIN: f64 = 1.5;
/// And this much time more, for short links.
const PACED_WINDOW_SLACK: Duration = Duration::from_millis(10);

/// The lane of a connection, empty until the handshake has told who the peer is.
pub(crate) type LaneSlot = Arc<OnceLock<Arc<Lane>>>;

/// Makes the controller of one connection.
#[derive(Debug)]
pub(crate) struct LinkController(pub(crate) LaneSlot);

impl ControllerFactory for LinkController {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        Box::new(LaneController { slot: self.0.clone(), adaptive: Adaptive::new(now, mtu), wanted: 0 })
    }
}

/// Measures always, so that a link may change from one kind to the other at any time.
struct LaneController {
    slot: LaneSlot,
    adaptive: Adaptive,
    /// Our part of the lane's wishes.
    wanted: u64,
}

impl LaneController {
    fn want(&mut self, now: u64) {
        if let Some(lane) = self.slot.get().filter(|_| now != self.wanted) {
            lane.want(self.wanted, now);
            self.wanted = now;
        }
    }
}

impl Controller for LaneController {
    fn on_sent(&mut self, now: Instant, bytes: u64, _last_packet: u64) {
        self.adaptive.on_sent(now, bytes);
    }

    fn on_ack(&mut self, _now: Instant, sent: Instant, bytes: u64, _app_limited: bool, _rtt: &RttEstimator) {
        self.adaptive.on_ack(sent, bytes);
    }

    fn on_end_acks(&mut self, now: Instant, _in_flight: u64, app_limited: bool, _largest: Option<u64>) {
        let losses = self.adaptive.on_end_acks(now, app_limited);
        let paced = self.slot.get().is_some_and(|lane| lane.paced().is_some());
        if let (true, Some(share), Some(lane)) = (paced, losses, self.slot.get()) {
            lane.hear_losses(share);
        }
        // A connection that has nothing to send leaves its share to the others.
        let rate = self.adaptive.pacing_rate().filter(|_| !paced && !app_limited);
        self.want(rate.map_or(0, |rate| rate as u64));
    }

    fn on_congestion_event(&mut self, now: Instant, _sent: Instant, is_persistent: bool, lost_bytes: u64) {
        self.adaptive.on_lost(lost_bytes);
        if is_persistent {
            self.adaptive.on_persistent_congestion(now);
        }
    }

    fn on_mtu_update(&mut self, mtu: u16) {
        self.adaptive.set_mtu(mtu);
    }

    fn window(&self) -> u64 {
        let paced = self.slot.get().and_then(|lane| lane.paced());
        match (paced, self.adaptive.min_rtt()) {
            (Some(rate), Some(rtt)) => {
                let time = rtt.mul_f64(PACED_WINDOW_GAIN) + PACED_WINDOW_SLACK;
                ((rate * time.as_secs_f64()) as u64).max(self.adaptive.initial_window())
            }
            _ => self.adaptive.window(),
        }
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self { slot: self.slot.clone(), adaptive: self.adaptive.clone(), wanted: 0 })
    }

    fn initial_window(&self) -> u64 {
        self.adaptive.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

impl Drop for LaneController {
    fn drop(&mut self) {
        self.want(0);
    }
}
