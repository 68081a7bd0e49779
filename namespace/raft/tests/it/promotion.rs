//! A group is begun anew from what one node has of it; the line before is fenced for ever.

use std::sync::Arc;
use std::time::Duration;

use causeway_base::{ClientId, Epoch, NodeId, Seq};
use causeway_namespace_core::command::{Outcome, RequestBody, SessionId};
use causeway_namespace_core::descent::DescentError;
use causeway_namespace_core::digest::Digest;
use causeway_namespace_core::lineage::Lineage;
use causeway_namespace_core::query;
use causeway_namespace_core::records::Records;
use causeway_namespace_raft::digests::{CompareError, Compared, DigestAsk, RepairError};
use causeway_namespace_raft::store::ViewError;
use causeway_namespace_raft::{
    Driven, Founding, Group, GroupSpec, Groups, GroupsConfig, HandleError, LinkError, Members, PeerRequest,
    ProposeError, Refounding, Retention, Rewritten, STATE_SPACES, StartError, Timing,
};
use causeway_storage::disk::SimDisk;
use causeway_storage::kv::{Kv, MemoryKv};

use crate::cluster::{Cluster, DEADLINE, GROUP, create, request, until};

pub(crate) const LINE: Lineage =
    Lineage { root_epoch: Epoch(0), root_founder: NodeId(0), epoch: Epoch(4), founder: NodeId(3) };
/// The seq at which the new line begins.
const BEGIN: Seq = Seq(1_000_000);

pub(crate) fn line_spec(lineage: Lineage) -> GroupSpec {
    GroupSpec { lineage, ..GroupSpec::default() }
}

pub(crate) async fn refound(groups: &Groups, fork: Seq) -> Result<(), causeway_namespace_raft::SeedError> {
    let plan = Refounding { lineage: LINE, before: Lineage::default(), fork, seq: BEGIN };
    groups.refound(GROUP, plan, |_| Ok(Rewritten::new())).await
}

async fn promote(groups: &Arc<Groups>) -> (Seq, Arc<Group>) {
    groups.persist_states().await.unwrap();
    let fork = groups.get(GROUP).unwrap().applied();
    groups.fence(GROUP, LINE, NodeId(3)).await.unwrap();
    refound(groups, fork).await.unwrap();
    let group = groups.start(GROUP, line_spec(LINE)).await.unwrap();
    until("the founder leads", || group.is_leader()).await;
    (fork, group)
}

pub(crate) fn files(group: &Group) -> u64 {
    query::totals(&group.view().unwrap()).unwrap().files
}

/// Nodes 1 and 2 on one side, 3 on the other; each side writes what the other does not have.
async fn split() -> (Cluster, SessionId, Seq, Arc<Group>) {
    let cluster = Cluster::with(3, Some(NodeId(1)), Default::default()).await;
    let session = cluster.session().await;
    for number in 1..=10 {
        cluster.put(session, number, &format!("both-{number}")).await;
    }
    cluster.converge().await;
    cluster.net.isolate(NodeId(3));
    for number in 11..=15 {
        cluster.put(session, number, &format!("old-{number}")).await;
    }
    let (fork, new) = promote(&cluster.nodes[&NodeId(3)]).await;
    assert_eq!((files(&new), new.applied() >= BEGIN), (10, true));
    for number in 11..=12 {
        new.propose(create(session, number, &format!("new-{number}")), DEADLINE).await.unwrap();
    }
    (cluster, session, fork, new)
}

/// Everybody follows the new line; the old line's end is still there to be read.
async fn join_and_compare(cluster: &Cluster, new: &Group, fork: Seq) {
    for node in [NodeId(1), NodeId(2)] {
        let groups = &cluster.nodes[&node];
        until("the old line has ended here", || groups.lineage(GROUP) == LINE && groups.get(GROUP).is_none()).await;
        let old = groups.start(GROUP, cluster.spec()).await;
        assert!(matches!(old, Err(StartError::Fenced { followed: LINE, .. })), "{old:?}");
        groups.start(GROUP, line_spec(LINE)).await.unwrap();
    }
    let members = Members { voters: cluster.ids().collect(), learners: Default::default() };
    let end = tokio::time::Instant::now() + DEADLINE;
    while !matches!(new.drive(&members, Duration::from_secs(2), DEADLINE).await, Ok(Driven::There)) {
        assert!(tokio::time::Instant::now() < end, "the old side does not join");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.converge().await;
    for group in cluster.groups() {
        assert_eq!((group.lineage(), files(&group)), (LINE, 12));
    }
    for node in [NodeId(1), NodeId(2)] {
        let groups = &cluster.nodes[&node];
        assert_eq!(groups.fence_of(GROUP).unwrap().left, [Lineage::default()]);
        let left = groups.line_view(GROUP, Lineage::default()).await.unwrap();
        assert_eq!(query::totals(&left).unwrap().files, 15);
        let entries = groups.line_entries(GROUP, Lineage::default(), fork).await.unwrap();
        let commands = entries.iter().filter(|entry| entry.command.is_some()).count();
        assert_eq!((entries[0].seq, commands), (Seq(fork.0 + 1), 5));
        assert!(groups.line_last(GROUP, Lineage::default()).await.unwrap() >= Seq(fork.0 + 5));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_are_not_compared_and_do_not_repair_each_other() {
    let (cluster, _, fork, new) = split().await;
    let (one, three) = (&cluster.nodes[&NodeId(1)], &cluster.nodes[&NodeId(3)]);
    let old = one.get(GROUP).unwrap();
    let old_state = one.fetch_state(NodeId(2), GROUP).await.unwrap();
    let ask = |lineage, marks| [DigestAsk { group: GROUP, lineage, marks }];
    cluster.net.heal();
    // Whether node 1 has heard by now or not.
    let asked = three.ask_digests(NodeId(1), &ask(LINE, new.digest_marks()), DEADLINE).await.unwrap();
    let back = one.ask_digests(NodeId(3), &ask(Lineage::default(), old.digest_marks()), DEADLINE).await.unwrap();
    assert_eq!((&asked[0].compared, &back[0].compared), (&Compared::NotHere, &Compared::NotHere));
    assert!(!asked[0].diverged && !back[0].diverged);
    let view = old.view().unwrap();
    let found = one.differing_records(NodeId(3), &old, view, 10, DEADLINE, Default::default()).await;
    assert!(matches!(found, Err(DescentError::Other(CompareError::Link(LinkError::Fenced(LINE))))), "{found:?}");
    drop(old);

    join_and_compare(&cluster, &new, fork).await;
    // At equal seqs with other records: that is a difference in a line, and nothing between two.
    let mut marks = new.digest_marks();
    marks.iter_mut().for_each(|mark| mark.digest = Digest::from_bytes([7; 32]));
    let other_line = one.ask_digests(NodeId(3), &ask(Lineage::default(), marks.clone()), DEADLINE).await.unwrap();
    assert_eq!(other_line[0].compared, Compared::NotHere);
    assert!(three.take_contested().is_empty());
    let same_line = one.ask_digests(NodeId(3), &ask(LINE, marks), DEADLINE).await.unwrap();
    assert!(matches!(same_line[0].compared, Compared::Differs { .. }), "{same_line:?}");
    assert_eq!(three.take_contested(), [(GROUP, NodeId(1))].into());
    let replaced = one.replace_state(GROUP, old_state).await;
    assert!(matches!(replaced, Err(RepairError::NotHere(GROUP))), "{replaced:?}");
    let group = one.get(GROUP).unwrap();
    assert_eq!((group.lineage(), files(&group)), (LINE, 12));
    drop((group, new));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_old_side_speaks_first_and_hears_that_it_has_ended() {
    let (mut cluster, session, fork, new) = split().await;
    let old = cluster.leader_of_line(Lineage::default()).await;
    cluster.net.heal();
    until("the old leader has heard", || old.is_fenced()).await;
    let late = old.propose(create(session, 16, "late"), DEADLINE).await;
    assert_eq!(late, Err(ProposeError::Fenced(cluster.nodes[&NodeId(1)].lineage(GROUP))));
    until("the mark is written", || cluster.nodes[&NodeId(1)].lineage(GROUP) == LINE).await;
    // Also after a restart.
    drop(old);
    cluster.kill(NodeId(1)).await;
    let groups = Groups::open(cluster.config(NodeId(1))).await.unwrap();
    cluster.net.attach(&groups);
    assert!(matches!(groups.start(GROUP, cluster.spec()).await, Err(StartError::Fenced { .. })));
    cluster.nodes.insert(NodeId(1), groups);
    join_and_compare(&cluster, &new, fork).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_new_side_speaks_first() {
    let (cluster, session, fork, new) = split().await;
    let old = cluster.leader_of_line(Lineage::default()).await;
    let message = |lineage| PeerRequest { group: GROUP, lineage, kind: 1, payload: Default::default() };
    for node in [NodeId(1), NodeId(2)] {
        let answer = cluster.nodes[&node].handle(NodeId(3), message(LINE)).await;
        assert_eq!(answer, Err(HandleError::UnknownGroup(GROUP)));
        // Durable, and the group is gone, before the answer.
        assert_eq!(cluster.nodes[&node].lineage(GROUP), LINE);
        assert!(cluster.nodes[&node].get(GROUP).is_none());
        // Now it tells others.
        let answer = cluster.nodes[&node].handle(NodeId(3), message(Lineage::default())).await;
        assert_eq!(answer, Err(HandleError::Fenced { group: GROUP, lineage: LINE }));
    }
    assert!(old.is_fenced());
    assert!(matches!(old.propose(create(session, 16, "late"), DEADLINE).await, Err(ProposeError::Fenced(LINE))));
    assert!(old.read_index(DEADLINE).await.is_err());
    cluster.net.heal();
    join_and_compare(&cluster, &new, fork).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_promotions_the_greater_line_wins() {
    let (cluster, session, _, _) = split().await;
    let groups = &cluster.nodes[&NodeId(1)];
    // The other side is promoted as well, under a lesser line.
    let lesser = Lineage { founder: NodeId(1), epoch: Epoch(2), ..LINE };
    groups.persist_states().await.unwrap();
    let fork = groups.get(GROUP).unwrap().applied();
    groups.fence(GROUP, lesser, NodeId(1)).await.unwrap();
    let plan = Refounding { lineage: lesser, before: Lineage::default(), fork, seq: BEGIN };
    groups.refound(GROUP, plan, |_| Ok(Rewritten::new())).await.unwrap();
    let group = groups.start(GROUP, line_spec(lesser)).await.unwrap();
    until("it leads", || group.is_leader()).await;
    group.propose(create(session, 16, "lesser"), DEADLINE).await.unwrap();
    cluster.net.heal();
    let answer = groups
        .handle(NodeId(3), PeerRequest { group: GROUP, lineage: LINE, kind: 1, payload: Default::default() })
        .await;
    assert_eq!(answer, Err(HandleError::UnknownGroup(GROUP)));
    assert!(matches!(group.propose(create(session, 17, "late"), DEADLINE).await, Err(ProposeError::Fenced(LINE))));
    let kept = groups.line_view(GROUP, lesser).await.unwrap();
    assert_eq!(query::totals(&kept).unwrap().files, 16, "what it took is kept");
    assert_eq!(cluster.nodes[&NodeId(3)].lineage(GROUP), LINE);
    cluster.shutdown().await;
}

/// One node on a disk that loses its power.
pub(crate) struct Lone {
    pub(crate) disk: SimDisk,
    pub(crate) kv: Arc<MemoryKv>,
    pub(crate) cluster: Cluster,
}

impl Lone {
    pub(crate) fn config(&self) -> GroupsConfig {
        let kv: Arc<dyn Kv> = self.kv.clone();
        let mut config = self.cluster.config_on(NodeId(3), kv);
        config.disk = Arc::new(self.disk.clone());
        config.dir = "/node".into();
        config.wal.segment_bytes = 64 << 10;
        config.timing = Timing {
            heartbeat: Duration::from_millis(20),
            election_min: Duration::from_millis(60),
            election_max: Duration::from_millis(90),
        };
        config
    }

    pub(crate) fn spec(&self) -> GroupSpec {
        GroupSpec { voters: [(NodeId(3), ())].into(), bootstrap: true, ..GroupSpec::default() }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_at_any_moment_leaves_the_old_line_or_the_new_one() {
    power_cuts(false).await;
}

/// Of the root group nobody else decides: the founder's own mark holds all that the new line begins with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_while_the_root_group_is_promoted_leaves_a_mark_that_says_all_or_none() {
    power_cuts(true).await;
}

fn founding(fork: Seq) -> Founding {
    Founding { before: Lineage::default(), fork, seq: BEGIN, command: "what makes the tables".into() }
}

/// Cuts the power at each change of the disk of a promotion that somebody else decided, or that the mark itself decides.
async fn power_cuts(by_mark: bool) {
    let (mut at, mut seen_old, mut seen_new) = (0, 0, 0);
    loop {
        let mut lone =
            Lone { disk: SimDisk::new(at), kv: Arc::new(MemoryKv::new(STATE_SPACES)), cluster: Cluster::stopped(3) };
        let groups = Groups::open(lone.config()).await.unwrap();
        let group = groups.start(GROUP, lone.spec()).await.unwrap();
        until("it leads", || group.is_leader()).await;
        let opened = group.propose(request(RequestBody::OpenSession { client: ClientId(1) }), DEADLINE).await.unwrap();
        let Outcome::Session(session) = opened.outcome else { panic!("{opened:?}") };
        for number in 1..=5 {
            group.propose(create(session, number, &format!("file-{number}")), DEADLINE).await.unwrap();
        }
        groups.persist_states().await.unwrap();
        let (fork, digest) = (group.applied(), group.view().unwrap().digest());
        drop(group);

        lone.disk.cut_power_at(at);
        let steps = async {
            match by_mark {
                true => groups.fence_founding(GROUP, LINE, founding(fork)).await,
                false => groups.fence(GROUP, LINE, NodeId(3)).await,
            }
            .map_err(|error| error.to_string())?;
            refound(&groups, fork).await.map_err(|error| error.to_string())
        };
        let ended = steps.await;
        let went = lone.disk.is_off();
        lone.kv = Arc::new(lone.kv.after_power_cut());
        groups.shutdown().await;
        drop(groups);
        lone.disk.crash();

        let groups = Groups::open(lone.config()).await.unwrap();
        let group = if groups.lineage(GROUP).is_first() {
            seen_old += 1;
            groups.start(GROUP, lone.spec()).await.unwrap()
        } else {
            seen_new += 1;
            assert!(matches!(groups.start(GROUP, lone.spec()).await, Err(StartError::Fenced { .. })));
            match groups.fence_of(GROUP).unwrap().founding {
                Some(found) => {
                    assert_eq!((by_mark, &found), (true, &founding(fork)), "cut {at}");
                    // A second promotion under the same line is none.
                    let again = groups.fence_founding(GROUP, LINE, found.clone()).await;
                    assert!(matches!(again, Err(StartError::Fenced { .. })), "{again:?}");
                    refound(&groups, found.fork).await.unwrap();
                }
                None => {
                    assert!(!by_mark, "cut {at}: fenced, and nobody knows by what");
                    refound(&groups, fork).await.unwrap();
                }
            }
            let group = groups.start(GROUP, line_spec(LINE)).await.unwrap();
            assert_eq!((group.applied(), group.view().unwrap().digest()), (BEGIN, digest), "cut {at}");
            group
        };
        until("it leads again", || group.is_leader()).await;
        let next = group.propose(create(session, 6, "file-6"), DEADLINE).await.unwrap();
        assert_eq!(next.seq > BEGIN, !group.lineage().is_first());
        assert_eq!(files(&group), 6, "cut {at}");
        groups.shutdown().await;
        if !went {
            ended.unwrap();
            break;
        }
        at += 1;
    }
    assert!(seen_old > 0 && seen_new > 3, "{seen_old} old, {seen_new} new");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_the_new_line_are_rewritten_and_snapshots_come_along() {
    use causeway_namespace_core::manage::ManageOp;
    let cluster = Cluster::new(1).await;
    let session = cluster.session().await;
    let group = cluster.group(NodeId(1));
    cluster.put(session, 1, "first").await;
    let op = ManageOp::CreateSnapshot { name: "before".into() };
    let body = RequestBody::Manage { session, number: 2, acked_below: 2, op };
    let snapshot = group.propose(request(body), DEADLINE).await.unwrap().seq;
    cluster.put(session, 3, "first").await;
    cluster.put(session, 4, "second").await;
    let groups = &cluster.nodes[&NodeId(1)];
    groups.persist_states().await.unwrap();
    let fork = group.applied();
    drop(group);
    let line = Lineage { founder: NodeId(1), ..LINE };
    groups.fence(GROUP, line, NodeId(1)).await.unwrap();
    let plan = Refounding { lineage: line, before: Lineage::default(), fork, seq: BEGIN };
    let rewrite = |view: &causeway_namespace_raft::StateView| {
        // One replaced by itself with another value, one added in front, one behind all, one removed that is not there.
        let meta = view.get(&[0])?.unwrap();
        Ok([
            (vec![0].into(), Some([&meta[..], b"x"].concat().into())),
            (vec![0, 0].into(), Some("added".into())),
            (vec![0xf0].into(), Some("last".into())),
            (vec![0xf1].into(), None),
        ]
        .into())
    };
    groups.refound(GROUP, plan, rewrite).await.unwrap();
    groups.refound(GROUP, plan, rewrite).await.unwrap();
    let (old, new) =
        (groups.line_view(GROUP, Lineage::default()).await.unwrap(), groups.line_view(GROUP, line).await.unwrap());
    assert_eq!(new.seq(), BEGIN);
    let all = |view: &causeway_namespace_raft::StateView| view.scan(&[0], &[0xff], usize::MAX).unwrap();
    let mut expected = all(&old);
    expected[0].1 = [&expected[0].1[..], b"x"].concat().into();
    expected.insert(1, (vec![0, 0].into(), "added".into()));
    expected.push((vec![0xf0].into(), "last".into()));
    assert_eq!(all(&new), expected);
    // Of a snapshot everything but the rewritten record is as it was.
    let at = |view: &causeway_namespace_raft::StateView| all(&view.at(snapshot).unwrap()).split_off(1);
    assert_eq!(at(&new), at(&old));
    assert!(new.at(Seq(fork.0)).is_err(), "other states of the past stay in the old line");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_is_begun_also_when_the_state_at_its_fork_is_kept_no_more() {
    let retention = Retention { seqs: 1, ..Retention::default() };
    let cluster = Cluster::with(1, None, retention).await;
    let session = cluster.session().await;
    let fork = cluster.put(session, 1, "before").await.seq;
    let groups = &cluster.nodes[&NodeId(1)];
    let group = cluster.group(NodeId(1));
    for number in 2..=9 {
        cluster.put(session, number, &format!("since-{number}")).await;
    }
    until("it is pruned", || matches!(group.view_at(fork), Err(ViewError::TooOld { .. }))).await;
    drop(group);
    groups.fence(GROUP, LINE, NodeId(1)).await.unwrap();
    refound(groups, fork).await.unwrap();
    let new = groups.start(GROUP, line_spec(LINE)).await.unwrap();
    assert_eq!(files(&new), 9);
    cluster.shutdown().await;
}
