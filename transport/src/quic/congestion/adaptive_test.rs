//! The controller against a simulated link: a rate, a queue, a delay, random loss. No sockets, no sleeps.

use std::collections::VecDeque;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

const DATAGRAM: u64 = 1400;

struct Link {
    rate: f64,
    rtt: Duration,
    queue: Duration,
    loss: f64,
    /// Acknowledgements are heard with the time at which their packets were sent.
    skewed: bool,
}

/// Runs a sender with endless data; returns bytes delivered in the second half, as a share of what the link could carry,
/// and the mean queueing delay then.
fn run(link: impl Fn(Duration) -> Link, span: Duration) -> (f64, Duration) {
    let begin = Instant::now() + Duration::from_secs(1);
    let mut rng = StdRng::seed_from_u64(7);
    let mut controller = Adaptive::new(begin, DATAGRAM as u16);
    // Acknowledgements on their way: when, and when the packet was sent; and losses to be noticed.
    let mut acks: VecDeque<(Instant, Instant, bool)> = VecDeque::new();
    let (mut now, mut free_at, mut send_at) = (begin, begin, begin);
    let (mut in_flight, mut delivered, mut possible, mut delays, mut packets) = (0_u64, 0.0, 0.0, 0.0, 0.0);
    while now < begin + span {
        let here = link(now - begin);
        while acks.front().is_some_and(|(at, ..)| *at <= now) {
            let (_, sent, ok) = acks.pop_front().unwrap();
            in_flight -= DATAGRAM;
            if !ok {
                controller.on_lost(DATAGRAM);
                continue;
            }
            controller.on_ack(if here.skewed { now } else { sent }, DATAGRAM);
            controller.on_end_acks(now, false);
            if now > begin + span / 2 {
                delivered += DATAGRAM as f64;
            }
        }
        while send_at <= now && in_flight + DATAGRAM <= controller.window() {
            let waits = free_at.saturating_duration_since(now);
            controller.on_sent(now, DATAGRAM);
            in_flight += DATAGRAM;
            let ok = waits <= here.queue && rng.random::<f64>() >= here.loss;
            if waits <= here.queue {
                free_at = free_at.max(now) + Duration::from_secs_f64(DATAGRAM as f64 / here.rate);
            }
            acks.push_back((free_at.max(now) + here.rtt, now, ok));
            let gap = controller.pacing_rate().map_or(0.0, |rate| DATAGRAM as f64 / rate);
            // Late by a step, not slower for it.
            send_at = send_at.max(now - Duration::from_millis(1)) + Duration::from_secs_f64(gap);
            if now > begin + span / 2 {
                delays += waits.as_secs_f64();
                packets += 1.0;
            }
        }
        if now > begin + span / 2 {
            possible += here.rate * 0.0001;
        }
        now += Duration::from_micros(100);
    }
    (delivered / possible, Duration::from_secs_f64(delays / packets))
}

fn fixed(mbit: f64, rtt_ms: u64, queue_ms: u64, loss: f64) -> impl Fn(Duration) -> Link {
    move |_| Link {
        rate: mbit * 125_000.0,
        rtt: Duration::from_millis(rtt_ms),
        queue: Duration::from_millis(queue_ms),
        loss,
        skewed: false,
    }
}

#[test]
fn links_are_filled_whatever_their_random_loss() {
    for (mbit, rtt, queue, loss) in
        [(100.0, 20, 25, 0.0), (100.0, 60, 50, 0.0001), (50.0, 200, 100, 0.001), (50.0, 120, 100, 0.01)]
    {
        let (share, delay) = run(fixed(mbit, rtt, queue, loss), Duration::from_secs(20));
        assert!(share > 0.95 * (1.0 - loss), "{mbit} Mbit/s, {rtt} ms: {share}");
        assert!(delay < Duration::from_millis(rtt / 4 + 1), "{mbit} Mbit/s, {rtt} ms: queue {delay:?}");
    }
}

#[test]
fn a_link_that_becomes_slower_or_faster_is_followed() {
    let changing = |factor: f64| {
        move |at: Duration| {
            let mbit = if at < Duration::from_secs(10) { 40.0 } else { 40.0 * factor };
            fixed(mbit, 40, 40, 0.0)(at)
        }
    };
    for factor in [0.25, 2.0] {
        // The second half begins two seconds after the change.
        let (share, _) = run(changing(factor), Duration::from_secs(24));
        assert!(share > 0.9, "times {factor}: {share}");
    }
}

/// A host that stands still, or a link that does, while the startup looks for the rate: whatever it took for the end of
/// growth, the rate is found soon after.
#[test]
fn a_startup_that_was_disturbed_does_not_end_low() {
    for (from, until) in [(400, 1500), (600, 2500), (900, 2000)] {
        let disturbed = move |at: Duration| {
            let slow = (from..until).contains(&at.as_millis());
            fixed(if slow { 0.5 } else { 100.0 }, 200, if slow { 300 } else { 100 }, 0.001)(at)
        };
        let (share, _) = run(disturbed, Duration::from_secs(16));
        assert!(share > 0.9, "{from} to {until} ms: {share}");
    }
}

/// A node whose processor was taken for a while sent at 100 kB/s ever after: an acknowledgement had been heard with the time
/// at which its packet was sent.
#[test]
fn a_short_way_recovers_from_a_host_that_stood_still() {
    for slow_rate in [100_000.0, 1_000_000.0] {
        let disturbed = move |at: Duration| {
            let slow = (500..2500).contains(&at.as_millis());
            Link {
                rate: if slow { slow_rate } else { 50_000_000.0 },
                rtt: Duration::from_micros(200),
                queue: Duration::from_millis(if slow { 300 } else { 20 }),
                loss: 0.0,
                skewed: at.as_millis() % 1000 == 400,
            }
        };
        let (share, _) = run(disturbed, Duration::from_secs(8));
        assert!(share > 0.9, "from {slow_rate} B/s: {share}");
    }
}

#[test]
fn an_acknowledgement_heard_too_early_leaves_room_for_what_is_under_way() {
    let mut now = Instant::now();
    let mut controller = Adaptive::new(now, 1200);
    let rtt = Duration::from_micros(300);
    for _ in 0..40 {
        (0..100).for_each(|_| controller.on_sent(now, 1200));
        let sent = now;
        now += rtt;
        (0..100).for_each(|_| controller.on_ack(sent, 1200));
        controller.on_end_acks(now, false);
    }
    let room = controller.window();
    controller.on_sent(now, 1200);
    controller.on_ack(now, 1200);
    controller.on_end_acks(now, false);
    assert_eq!(controller.min_rtt(), Some(rtt));
    assert!(controller.window() > room / 2, "{} of {room}", controller.window());
}

#[test]
fn without_data_the_rate_is_not_forgotten() {
    let begin = Instant::now();
    let mut controller = Adaptive::new(begin, 1200);
    let rtt = Duration::from_millis(50);
    let mut now = begin;
    // Windows of 100 packets a round, then single packets with nothing more to send.
    for round in 0..60 {
        let (packets, app_limited) = if round < 20 { (100, false) } else { (1, true) };
        for _ in 0..packets {
            controller.on_sent(now, 1200);
        }
        let sent = now;
        now += rtt;
        for _ in 0..packets {
            controller.on_ack(sent, 1200);
        }
        controller.on_end_acks(now, app_limited);
    }
    let rate = controller.rate().unwrap();
    assert!(rate > 100.0 * 1200.0 / rtt.as_secs_f64() * 0.9, "{rate}");
}
