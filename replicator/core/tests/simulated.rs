//! The planner against simulated sources: faults in any order, then a check of what was asked and what came.
#![allow(clippy::unwrap_used)] // helpers of tests may panic

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use causeway_base::ChunkId;
use causeway_replicator_core::{
    BatchId, Command, Event, FetchBatch, Limits, Planner, Source, SourceId, Time, Want, WhyMissing,
};
use causeway_topology::{BitRate, Price};
use proptest::prelude::*;

/// Spreads the ids, so that their order is not that of the wants.
fn chunk(index: usize) -> ChunkId {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&(index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    bytes[8..16].copy_from_slice(&(index as u64).to_be_bytes());
    ChunkId(bytes)
}

#[derive(Clone, Debug)]
struct Scenario {
    limits: Limits,
    lens: Vec<u32>,
    hints: Vec<Option<usize>>,
    /// Per source: which chunks it has (by bit), rtt, price, allowed, complete.
    sources: Vec<(BTreeSet<usize>, u64, u64, bool, bool)>,
    /// Chunks that a source corrupts.
    corrupt: BTreeSet<(usize, usize)>,
    /// Drives the interleaving and, if `faults`, what goes wrong.
    choices: Vec<u16>,
    faults: bool,
}

fn scenarios(faults: bool) -> impl Strategy<Value = Scenario> {
    (1_usize..60, 1_usize..5).prop_flat_map(move |(chunks, sources)| {
        let source = (
            prop::collection::btree_set(0..chunks, 0..=chunks),
            0_u64..200,
            0_u64..100,
            prop::bool::weighted(0.85),
            any::<bool>(),
        );
        (
            (1_usize..9, 1_u64..4000, 1_usize..4, 1_u64..9000),
            prop::collection::vec(1_u32..1000, chunks),
            prop::collection::vec(prop::option::of(0..sources), chunks),
            prop::collection::vec(source, sources),
            prop::collection::btree_set((0..sources, 0..chunks), 0..if faults { 4 } else { 1 }),
            prop::collection::vec(any::<u16>(), 0..400),
        )
            .prop_map(move |(limits, lens, hints, sources, corrupt, choices)| {
                let limits = Limits {
                    batch_chunks_max: limits.0,
                    batch_bytes_max: limits.1,
                    batches_per_source_max: limits.2,
                    in_flight_bytes_max: limits.3,
                    failures_max: 100,
                    ..Limits::default()
                };
                let corrupt = if faults { corrupt } else { BTreeSet::new() };
                Scenario { limits, lens, hints, sources, corrupt, choices, faults }
            })
    })
}

#[derive(Debug, Default)]
struct Outcome {
    arrived: BTreeMap<ChunkId, u32>,
    missing: BTreeMap<ChunkId, WhyMissing>,
    asked: usize,
    commands: Vec<Command>,
}

struct Flight {
    source: usize,
    ids: Vec<ChunkId>,
}

/// Runs a scenario to its end; checks what must hold at each step.
fn run(scenario: &Scenario) -> Outcome {
    let index: BTreeMap<ChunkId, usize> = (0..scenario.lens.len()).map(|at| (chunk(at), at)).collect();
    let mut planner = Planner::new(scenario.limits).unwrap();
    for (at, (_, rtt, price, allowed, complete)) in scenario.sources.iter().enumerate() {
        let source = Source {
            id: SourceId(at as u32),
            rtt: Duration::from_millis(*rtt),
            rate: BitRate(1_000_000_000),
            price_per_gib: Price(*price),
            allowed: *allowed,
            complete: *complete,
        };
        planner.handle(Time::ZERO, Event::Changed(source));
    }
    planner.want(scenario.lens.iter().enumerate().map(|(at, len)| Want {
        id: chunk(at),
        len: *len,
        priority: u8::from(at % 3 == 0),
        hint: scenario.hints[at].map(|at| SourceId(at as u32)),
    }));
    let mut outcome = Outcome::default();
    let mut flights: BTreeMap<BatchId, Flight> = BTreeMap::new();
    let mut lacked: BTreeSet<(usize, ChunkId)> = BTreeSet::new();
    let mut choices = scenario.choices.iter().copied();
    let mut now = Time::ZERO;
    for step in 0.. {
        assert!(step < 100_000, "the planner does not come to an end");
        for command in planner.commands(now) {
            outcome.commands.push(command.clone());
            match command {
                Command::Cancel(batch) => assert!(flights.remove(&batch).is_some(), "a batch is cancelled once"),
                Command::Fetch(FetchBatch { batch, source, ids, bytes }) => {
                    let source = source.0 as usize;
                    assert!(scenario.sources[source].3, "a forbidden source is asked");
                    assert!(!ids.is_empty() && ids.len() <= scenario.limits.batch_chunks_max);
                    assert_eq!(bytes, ids.iter().map(|id| u64::from(scenario.lens[index[id]])).sum::<u64>());
                    assert!(ids.len() == 1 || bytes <= scenario.limits.batch_bytes_max);
                    for id in &ids {
                        assert!(!lacked.contains(&(source, *id)), "asked again for what it lacks");
                        let twice = flights.values().any(|flight| flight.ids.contains(id));
                        assert!(!twice, "a chunk is asked for twice at once");
                    }
                    outcome.asked += ids.len();
                    flights.insert(batch, Flight { source, ids });
                    let at_source = flights.values().filter(|flight| flight.source == source).count();
                    assert!(at_source <= scenario.limits.batches_per_source_max);
                }
            }
        }
        let open: u64 =
            flights.values().flat_map(|flight| &flight.ids).map(|id| u64::from(scenario.lens[index[id]])).sum();
        let chunks: usize = flights.values().map(|flight| flight.ids.len()).sum();
        assert_eq!(open, planner.in_flight_bytes());
        assert!(open <= scenario.limits.in_flight_bytes_max || chunks == 1);
        if planner.is_done() {
            break;
        }
        let choice = choices.next().unwrap_or(0);
        let Some(batch) = flights.keys().nth(usize::from(choice >> 8) % flights.len().max(1)).copied() else {
            let deadline = planner.next_deadline().expect("nothing is in flight, so a time must be waited for");
            assert!(deadline > now, "a deadline that has passed");
            now = deadline;
            continue;
        };
        let fault = scenario.faults && choices.len() > 0 && choice % 8 == 0;
        let flight = flights.get_mut(&batch).unwrap();
        if fault && choice % 16 == 0 {
            now += scenario.limits.stall_timeout; // stalls: the planner cancels it
        } else if fault {
            flights.remove(&batch);
            planner.handle(now, if choice % 3 == 0 { Event::Ended(batch) } else { Event::Failed(batch) });
        } else if flight.ids.is_empty() {
            flights.remove(&batch);
            planner.handle(now, Event::Ended(batch));
        } else {
            now += Duration::from_millis(1);
            let id = flight.ids.remove(0);
            let source = flight.source;
            if scenario.corrupt.contains(&(source, index[&id])) {
                lacked.insert((source, id));
                planner.handle(now, Event::Corrupt(batch, id));
            } else if scenario.sources[source].0.contains(&index[&id]) {
                *outcome.arrived.entry(id).or_default() += 1;
                planner.handle(now, Event::Arrived(batch, id));
            } else {
                lacked.insert((source, id));
                planner.handle(now, Event::Lacks(batch, id));
            }
        }
    }
    outcome.missing = planner.missing().map(|missing| (missing.id, missing.why)).collect();
    outcome
}

fn check(scenario: &Scenario, outcome: &Outcome) {
    for at in 0..scenario.lens.len() {
        let id = chunk(at);
        let has = |(source, it): &(usize, &(BTreeSet<usize>, u64, u64, bool, bool))| {
            it.3 && it.0.contains(&at) && !scenario.corrupt.contains(&(*source, at))
        };
        let obtainable = scenario.sources.iter().enumerate().any(|it| has(&it));
        assert_eq!(outcome.arrived.get(&id).copied().unwrap_or(0), u32::from(obtainable), "chunk {at}");
        assert_eq!(outcome.missing.contains_key(&id), !obtainable, "chunk {at}");
        assert_ne!(outcome.missing.get(&id), Some(&WhyMissing::Unreachable));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn without_faults_each_chunk_comes_once_and_the_rest_is_named(scenario in scenarios(false)) {
        let outcome = run(&scenario);
        check(&scenario, &outcome);
        let sources = scenario.sources.len();
        prop_assert!(outcome.asked <= scenario.lens.len() * sources);
    }

    #[test]
    fn faults_delay_but_lose_and_repeat_nothing(scenario in scenarios(true)) {
        let outcome = run(&scenario);
        check(&scenario, &outcome);
        prop_assert_eq!(run(&scenario).commands, outcome.commands, "the same events give the same commands");
    }
}

fn source(id: u32, rtt_ms: u64, complete: bool) -> Source {
    Source {
        id: SourceId(id),
        rtt: Duration::from_millis(rtt_ms),
        rate: BitRate(1_000_000_000),
        price_per_gib: Price(0),
        allowed: true,
        complete,
    }
}

fn want(index: usize, hint: Option<u32>) -> Want {
    Want { id: chunk(index), len: 1000, priority: 0, hint: hint.map(SourceId) }
}

fn fetches(planner: &mut Planner, now: Time) -> Vec<FetchBatch> {
    planner
        .commands(now)
        .into_iter()
        .filter_map(|command| if let Command::Fetch(batch) = command { Some(batch) } else { None })
        .collect()
}

#[test]
fn the_hinted_source_is_asked_before_a_nearer_one_that_may_not_have_it() {
    let mut planner = Planner::new(Limits::default()).unwrap();
    planner.handle(Time::ZERO, Event::Changed(source(1, 1, false)));
    planner.handle(Time::ZERO, Event::Changed(source(2, 80, false)));
    planner.want([want(0, Some(2)), want(1, Some(2))]);
    let asked = fetches(&mut planner, Time::ZERO);
    assert_eq!(asked.len(), 1);
    assert_eq!((asked[0].source, asked[0].ids.clone()), (SourceId(2), vec![chunk(0), chunk(1)]));
    planner.handle(Time::ZERO, Event::Lacks(asked[0].batch, chunk(0)));
    let asked = fetches(&mut planner, Time::ZERO);
    assert_eq!((asked[0].source, asked[0].ids.clone()), (SourceId(1), vec![chunk(0)]));
}

#[test]
fn a_free_source_is_preferred_to_a_faster_paid_one() {
    let mut planner = Planner::new(Limits::default()).unwrap();
    planner.handle(Time::ZERO, Event::Changed(Source { price_per_gib: Price(87_000), ..source(1, 1, true) }));
    planner.handle(Time::ZERO, Event::Changed(Source { rate: BitRate(500_000_000), ..source(2, 2, true) }));
    planner.want((0..4096).map(|at| Want { len: 65_536, ..want(at, None) }));
    assert_eq!(fetches(&mut planner, Time::ZERO)[0].source, SourceId(2));
}

#[test]
fn a_dead_source_is_given_up_and_a_change_brings_it_back() {
    let limits = Limits { failures_max: 3, ..Limits::default() };
    let mut planner = Planner::new(limits).unwrap();
    planner.handle(Time::ZERO, Event::Changed(source(1, 1, true)));
    planner.want([want(0, None)]);
    let mut now = Time::ZERO;
    let mut asked = 0;
    while !planner.is_done() {
        for batch in fetches(&mut planner, now) {
            asked += 1;
            planner.handle(now, Event::Failed(batch.batch));
        }
        now = planner.next_deadline().unwrap_or(now);
    }
    assert_eq!(asked, 3);
    assert_eq!(now, limits.retry_min * 3, "waits double");
    assert_eq!(planner.missing().next().map(|it| it.why), Some(WhyMissing::Unreachable));
    planner.handle(now, Event::Changed(source(1, 1, true)));
    planner.want([want(0, None)]);
    assert_eq!(fetches(&mut planner, now).len(), 1);
    assert_eq!(planner.missing().count(), 0);
}

#[test]
fn a_stalled_batch_goes_elsewhere_and_its_late_chunk_is_welcome() {
    let mut planner = Planner::new(Limits::default()).unwrap();
    planner.handle(Time::ZERO, Event::Changed(source(1, 1, true)));
    planner.handle(Time::ZERO, Event::Changed(source(2, 50, true)));
    planner.want([want(0, None), want(1, None)]);
    let first = fetches(&mut planner, Time::ZERO).remove(0);
    assert_eq!(first.source, SourceId(1));
    let stalled = planner.next_deadline().unwrap();
    let commands = planner.commands(stalled);
    assert_eq!(commands[0], Command::Cancel(first.batch));
    let Command::Fetch(second) = &commands[1] else { panic!("{commands:?}") };
    assert_eq!((second.source, second.ids.len()), (SourceId(2), 2));
    planner.handle(stalled, Event::Arrived(first.batch, chunk(0)));
    planner.handle(stalled, Event::Arrived(second.batch, chunk(1)));
    assert!(planner.is_done());
    planner.handle(stalled, Event::Arrived(second.batch, chunk(0)));
    planner.handle(stalled, Event::Ended(second.batch));
    assert_eq!(planner.in_flight_bytes(), 0);
}

#[test]
fn bad_corrupt_and_forbidden_sources_are_told_apart() {
    let mut planner = Planner::new(Limits::default()).unwrap();
    planner.handle(Time::ZERO, Event::Changed(source(1, 1, true)));
    planner.handle(Time::ZERO, Event::Changed(Source { allowed: false, ..source(2, 1, true) }));
    planner.want([want(0, Some(2)), want(1, None)]);
    let batch = fetches(&mut planner, Time::ZERO).remove(0);
    planner.handle(Time::ZERO, Event::Corrupt(batch.batch, chunk(0)));
    planner.handle(Time::ZERO, Event::Lacks(batch.batch, chunk(1)));
    assert!(fetches(&mut planner, Time::ZERO).is_empty());
    let why: BTreeMap<_, _> = planner.missing().map(|it| (it.id, it.why)).collect();
    assert_eq!(why, [(chunk(0), WhyMissing::Corrupt), (chunk(1), WhyMissing::Nowhere)].into());
    assert!(Planner::new(Limits { in_flight_bytes_max: 0, ..Limits::default() }).is_err());
}

#[test]
fn what_cannot_be_read_is_asked_for_again_there_and_is_no_fault() {
    let mut planner = Planner::new(Limits { failures_max: 1, ..Limits::default() }).unwrap();
    planner.handle(Time::ZERO, Event::Changed(source(1, 1, true)));
    planner.want([want(0, None), want(1, None)]);
    for round in 0..3 {
        let now = Time::from_millis(round);
        let batch = fetches(&mut planner, now).remove(0);
        assert_eq!((batch.source, batch.ids.len()), (SourceId(1), 2));
        for id in [0, 1] {
            planner.handle(now, Event::Unreadable(batch.batch, chunk(id)));
        }
        planner.handle(now, Event::Ended(batch.batch));
        assert_eq!(planner.in_flight_bytes(), 0);
    }
    let batch = fetches(&mut planner, Time::from_millis(3)).remove(0);
    planner.handle(Time::from_millis(3), Event::Arrived(batch.batch, chunk(0)));
    planner.handle(Time::from_millis(3), Event::Arrived(batch.batch, chunk(1)));
    assert!(planner.is_done() && planner.missing().next().is_none());
}

#[test]
fn a_far_source_is_left_alone_while_waiting_for_the_near_one_is_shorter() {
    let limits = Limits { batches_per_source_max: 1, batch_chunks_max: 10, ..Limits::default() };
    let mut planner = Planner::new(limits).unwrap();
    planner.handle(Time::ZERO, Event::Changed(source(1, 1, true)));
    planner.handle(Time::ZERO, Event::Changed(source(2, 1000, true)));
    planner.want((0..100).map(|at| want(at, None)));
    let asked = fetches(&mut planner, Time::ZERO);
    assert_eq!(asked.iter().map(|it| it.source).collect::<Vec<_>>(), [SourceId(1)]);
    planner.handle(Time::ZERO, Event::Changed(source(2, 1, true)));
    let asked = fetches(&mut planner, Time::ZERO);
    assert_eq!(asked.iter().map(|it| it.source).collect::<Vec<_>>(), [SourceId(2)], "now it is as near");
}

#[test]
fn what_only_a_far_source_has_does_not_drag_the_rest_there() {
    let limits = Limits { batches_per_source_max: 1, batch_chunks_max: 10, ..Limits::default() };
    let mut planner = Planner::new(limits).unwrap();
    planner.handle(Time::ZERO, Event::Changed(source(1, 1, true)));
    planner.handle(Time::ZERO, Event::Changed(source(2, 1000, true)));
    planner.want((0..30).map(|at| want(at, None)));
    let first = fetches(&mut planner, Time::ZERO).remove(0);
    planner.handle(Time::ZERO, Event::Lacks(first.batch, chunk(0)));
    let asked = fetches(&mut planner, Time::ZERO);
    assert_eq!(asked.len(), 1);
    assert_eq!((asked[0].source, asked[0].ids.clone()), (SourceId(2), vec![chunk(0)]));
}
