//! What a node kept of the lines of a group that promotions ended: to be read, by people, and never merged by a program.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use causeway_base::{NodeId, Seq, Timestamp, VolumeId};
use causeway_namespace_core::command::{At, Command, Op, RequestBody};
use causeway_namespace_core::lineage::Lineage;
use causeway_namespace_core::query::{self, ChangeKind, TreeChange};
use causeway_namespace_core::records::ReadError;
use causeway_namespace_core::root::VolumeRecord;
use causeway_proto::v1;

use super::replica::view_error;
use super::{Namespace, blocking};
use crate::error::Error;
use crate::rpc;
use crate::service::seq_events;
use causeway_namespace_raft::StateView;

/// Seqs in one answer.
const SEQS_MAX: usize = 64;
/// Changes told of one seq; the rest is counted.
const CHANGES_MAX: usize = 256;
/// Bytes of changes after which an answer takes no more.
const BYTES_MAX: usize = 1 << 20;
/// Characters of a path that are shown.
const PATH_CHARS_MAX: usize = 500;
/// What is left of a deadline for the way back.
const MARGIN: Duration = Duration::from_millis(250);

/// A line that a node has left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AsideLine {
    /// Which.
    pub lineage: Lineage,
    /// Under which id its state is read at that node.
    pub volume: VolumeId,
    /// What followed it took over everything up to here; `None` if the node does not know.
    pub fork: Option<Seq>,
    /// The seq of its state there.
    pub applied: Seq,
    /// The newest seq in its log there.
    pub last: Seq,
    /// The volume; `None` for the root group.
    pub of: Option<VolumeRecord>,
}

/// What a node keeps of a volume though nothing follows it any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aside {
    /// Under which id it is read on this node.
    pub id: VolumeId,
    /// The volume that it is of.
    pub of: VolumeRecord,
}

/// A group whose lines are asked for.
pub(super) struct Named {
    pub(super) group: VolumeId,
    /// `None`: the root group.
    pub(super) of: Option<VolumeRecord>,
    pub(super) lines: Vec<Lineage>,
}

/// A seq behind the fork.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AsideSeq {
    /// Which.
    pub seq: Seq,
    /// When, by the proposer's clock; `None` if it is not known.
    pub at: Option<Timestamp>,
    /// Whether it was known to be committed there.
    pub applied: bool,
    /// What it changed, for people.
    pub changes: Vec<String>,
}

impl Namespace {
    /// The lines of a volume that a node (`None`: this one) has left, oldest first.
    ///
    /// # Errors
    /// [`Error`] if the node cannot be asked. Cancel safe.
    pub async fn aside_lines(
        &self,
        name: &str,
        node: Option<NodeId>,
        deadline: Duration,
    ) -> Result<Vec<AsideLine>, Error> {
        if let Some(other) = node.filter(|node| *node != self.id()) {
            let message = v1::VolumeAsideRequest { name: name.to_owned(), ..v1::VolumeAsideRequest::default() };
            let answer = self.ask_aside(other, message, deadline).await?;
            let lines = answer.lines.into_iter().map(crate::wire::aside_line).collect::<Result<_, _>>();
            return lines.map_err(|error| Error::Invalid(format!("{other} answered badly: {error}")));
        }
        let Named { group, of, lines: left } = self.named_group(name).await?;
        let promotion = self.catalog().promotions.get(&group).cloned();
        let mut lines = Vec::new();
        for lineage in left {
            let view = self.line_view(group, lineage).await?;
            let last = self.groups.line_last(group, lineage).await.map_err(|error| store_error(&error))?;
            if last == Seq::ZERO {
                continue;
            }
            let fork = promotion.as_ref().filter(|known| known.before == lineage).map(|known| known.fork);
            let (volume, of) = (lineage.aside(group), of.clone());
            lines.push(AsideLine { lineage, volume, fork, applied: view.seq(), last, of });
        }
        Ok(lines)
    }

    /// What a node has behind the fork of a line that it left, and behind `after`: some seqs in order, and whether these are
    /// all.
    ///
    /// # Errors
    /// As [`Namespace::aside_lines`].
    pub async fn aside_seqs(
        &self,
        name: &str,
        node: Option<NodeId>,
        lineage: Lineage,
        after: Seq,
        deadline: Duration,
    ) -> Result<(Vec<AsideSeq>, bool), Error> {
        if let Some(other) = node.filter(|node| *node != self.id()) {
            let message =
                v1::VolumeAsideRequest { name: name.to_owned(), node: 0, lineage: lineage.to_string(), after: after.0 };
            let answer = self.ask_aside(other, message, deadline).await?;
            return Ok((answer.seqs.into_iter().map(crate::wire::aside_seq).collect(), answer.end));
        }
        let group = self.named_group(name).await?.group;
        let lines = self.aside_lines(name, None, deadline).await?;
        let Some(line) = lines.into_iter().find(|line| line.lineage == lineage) else {
            return Err(Error::Invalid(format!("{} has nothing aside of line {lineage}", self.id())));
        };
        let after = after.max(line.fork.unwrap_or(Seq::ZERO));
        let view = self.line_view(group, lineage).await?;
        if after >= view.seq() {
            return self.in_log(group, lineage, after).await;
        }
        let found = blocking(move || applied(&view, after)).await?;
        Ok((found, false))
    }

    /// Entries that were never known to be committed.
    async fn in_log(&self, group: VolumeId, lineage: Lineage, after: Seq) -> Result<(Vec<AsideSeq>, bool), Error> {
        let mut entries = self.groups.line_entries(group, lineage, after).await.map_err(|error| store_error(&error))?;
        let end = entries.len() <= SEQS_MAX;
        entries.truncate(SEQS_MAX);
        let end = end && entries.is_empty();
        let seqs = entries.into_iter().map(|entry| AsideSeq {
            seq: entry.seq,
            at: entry.command.as_ref().and_then(|command| command.requests.first()).map(|request| request.at),
            applied: false,
            changes: entry.command.as_ref().map(commanded).unwrap_or_default(),
        });
        Ok((seqs.collect(), end))
    }

    async fn line_view(&self, group: VolumeId, lineage: Lineage) -> Result<StateView, Error> {
        self.groups.line_view(group, lineage).await.map_err(|error| store_error(&error))
    }

    /// The lines of a group that this node has left and not given up, oldest first; of one that no table knows any more also its last.
    fn left(&self, group: VolumeId, lost: bool) -> Vec<Lineage> {
        let left = self.groups.fence_of(group).map(|fence| fence.left).unwrap_or_default();
        let all = left.into_iter().chain(lost.then(|| self.groups.lineage(group)));
        all.filter(|lineage| !self.groups.is_forgotten(group, *lineage)).collect()
    }

    /// The volumes that a line of the root group that this node left had, by its newest tables here, and that are not among
    /// `known`: they were created where nothing follows now.
    async fn lost_volumes(&self, known: &BTreeSet<VolumeId>) -> Result<Vec<VolumeRecord>, Error> {
        let mut lost = BTreeMap::new();
        for lineage in self.left(VolumeId::ROOT, false) {
            let tables = self.line_view(VolumeId::ROOT, lineage).await?;
            let volumes = blocking(move || query::volumes(&tables)).await?;
            lost.extend(volumes.into_iter().filter(|of| !known.contains(&of.id)).map(|of| (of.id, of)));
        }
        Ok(lost.into_values().collect())
    }

    /// The view of a line that was left, by the id under which it is read.
    ///
    /// # Errors
    /// [`Error::NoVolume`] if there is none here, [`Error::NoReplica`] if this node had none. Cancel safe.
    pub(crate) async fn aside_view(&self, id: VolumeId) -> Result<StateView, Error> {
        let known: BTreeSet<VolumeId> = self.catalog().volumes.keys().copied().collect();
        for group in known.iter().copied().chain([VolumeId::ROOT]) {
            if let Some(lineage) = self.left(group, false).into_iter().find(|lineage| lineage.aside(group) == id) {
                return self.line_view(group, lineage).await;
            }
        }
        for of in self.lost_volumes(&known).await? {
            let (mut found, mut blank) = (None, !self.has_forgotten(of.id));
            for lineage in self.left(of.id, true) {
                let view = self.line_view(of.id, lineage).await?;
                blank &= view.seq() == Seq::ZERO;
                if lineage.aside(of.id) == id {
                    found = Some(view);
                }
            }
            match found {
                // What it named is known to others only, and they do not say.
                Some(_) if blank => return Err(Error::NoReplica { volume: of.id, voters: of.spec.voters }),
                Some(view) => return Ok(view),
                None => {}
            }
        }
        Err(Error::NoVolume(format!("{id} on {}", self.id())))
    }

    /// Every line of a volume that this node has left, and every volume that only a line of the root group knew that it has
    /// left: what they name is still in use. `known` are the volumes that there are.
    ///
    /// # Errors
    /// [`Error`] if the tables that were left cannot be read. Cancel safe.
    pub async fn asides(&self, known: &[VolumeRecord]) -> Result<Vec<Aside>, Error> {
        let ids = known.iter().map(|of| of.id).collect();
        let lost = self.lost_volumes(&ids).await?;
        let mut asides = Vec::new();
        for (of, lost) in known.iter().map(|of| (of, false)).chain(lost.iter().map(|of| (of, true))) {
            let left = self.left(of.id, lost).into_iter();
            asides.extend(left.map(|lineage| Aside { id: lineage.aside(of.id), of: of.clone() }));
        }
        Ok(asides)
    }

    /// A group by the name of its volume; of a volume that no table knows any more also by its id.
    pub(super) async fn named_group(&self, name: &str) -> Result<Named, Error> {
        if name.is_empty() {
            return Ok(Named { group: VolumeId::ROOT, of: None, lines: self.left(VolumeId::ROOT, false) });
        }
        let catalog = self.catalog();
        if let Some(of) = catalog.volume_named(name) {
            return Ok(Named { group: of.id, of: Some(of.clone()), lines: self.left(of.id, false) });
        }
        let lost = self.lost_volumes(&catalog.volumes.keys().copied().collect()).await?;
        let found = |by: &dyn Fn(&VolumeRecord) -> bool| lost.iter().rfind(|of| by(of)).cloned();
        let of = found(&|of| of.spec.name == name).or_else(|| found(&|of| of.id.to_string() == name));
        let of = of.ok_or_else(|| Error::NoVolume(format!("{name:?}")))?;
        Ok(Named { group: of.id, lines: self.left(of.id, true), of: Some(of) })
    }

    async fn ask_aside(
        &self,
        node: NodeId,
        message: v1::VolumeAsideRequest,
        deadline: Duration,
    ) -> Result<v1::VolumeAsideResponse, Error> {
        let mut stub = self.peers.admin(node).map_err(|error| Error::Invalid(error.to_string()))?;
        let request = self.peers.request(message, Some(deadline.saturating_sub(MARGIN)));
        let answer = stub.volume_aside(request).await;
        let failed = |status: tonic::Status| Error::Invalid(format!("{node}: {}", rpc::message_of(&status)));
        answer.map(tonic::Response::into_inner).map_err(failed)
    }
}

fn store_error(error: &causeway_namespace_raft::store::StoreError) -> Error {
    Error::Read(ReadError::Store(rpc::chain(error)))
}

/// What the state says of the seqs behind `after`: what they changed.
fn applied(view: &StateView, after: Seq) -> Result<Vec<AsideSeq>, Error> {
    let told = |error| view_error(view.group(), error);
    // What is not kept any more is not told one by one.
    let after = after.max(Seq(view.meta().oldest.0.min(view.seq().0)));
    let seqs = view.changes(after, view.seq(), SEQS_MAX).map_err(told)?;
    let mut at_end = seqs.len() < SEQS_MAX;
    let (mut found, mut bytes) = (Vec::with_capacity(seqs.len()), 0);
    for changed in &seqs {
        if bytes > BYTES_MAX {
            at_end = false;
            break;
        }
        let events = seq_events(view, changed).map_err(told)?;
        let mut changes: Vec<String> = events.iter().take(CHANGES_MAX).map(|event| shown(&event.change)).collect();
        if events.len() > CHANGES_MAX {
            changes.push(format!("and {} more", events.len() - CHANGES_MAX));
        }
        bytes += changes.iter().map(String::len).sum::<usize>();
        found.push(AsideSeq { seq: changed.seq, at: Some(changed.time), applied: true, changes });
    }
    if at_end && found.last().is_none_or(|last| last.seq < view.seq()) {
        // The last ones changed no record; the log goes on behind them.
        found.push(AsideSeq { seq: view.seq(), at: None, applied: true, changes: Vec::new() });
    }
    Ok(found)
}

/// A path of at most some hundred bytes.
fn path(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let cut = text.char_indices().nth(PATH_CHARS_MAX).map_or(text.len(), |(at, _)| at);
    format!("{:?}{}", &text[..cut], if cut < text.len() { "…" } else { "" })
}

fn shown(change: &TreeChange) -> String {
    let what = match change.kind {
        ChangeKind::Removed => "removed",
        ChangeKind::Unlinked => "unlinked",
        ChangeKind::Renamed => "renamed",
        ChangeKind::Created => "created",
        ChangeKind::Linked => "linked",
        ChangeKind::Replaced => "replaced",
        ChangeKind::Attributes => "attributes of",
    };
    let named = |bytes: &Option<Bytes>| bytes.as_ref().map_or_else(|| format!("{}", change.ino), |bytes| path(bytes));
    match &change.path_before {
        Some(_) if change.kind == ChangeKind::Renamed => {
            format!("{what} {} to {}", named(&change.path_before), named(&change.path))
        }
        _ => format!("{what} {}", named(&change.path)),
    }
}

/// The operations of a command that was never applied.
fn commanded(command: &Command) -> Vec<String> {
    let mut told = Vec::new();
    for request in &command.requests {
        match &request.body {
            RequestBody::Mutate { ops, .. } | RequestBody::Once { ops, .. } => told.extend(ops.iter().map(operation)),
            RequestBody::Manage { op, .. } => told.push(named("manage", op)),
            RequestBody::Root(op) | RequestBody::Audited { op, .. } => told.push(named("root", op)),
            RequestBody::Mount(op) => told.push(format!("mount {}", path(&op.path))),
            RequestBody::OpenSession { .. } => told.push("session opened".to_owned()),
            RequestBody::RaiseEpoch { .. } | RequestBody::ExpireLocks => {}
        }
    }
    let more = told.len().saturating_sub(CHANGES_MAX);
    told.truncate(CHANGES_MAX);
    if more > 0 {
        told.push(format!("and {more} more"));
    }
    told
}

/// An operation by its name alone: its fields may hold secrets and much text.
fn named(what: &str, op: &impl std::fmt::Debug) -> String {
    let text = format!("{op:?}");
    let name: String = text.chars().take_while(|letter| letter.is_ascii_alphanumeric()).collect();
    format!("{what}: {name}")
}

fn operation(op: &Op) -> String {
    let at = |at: &At| match at.dir {
        causeway_base::Ino::ROOT => path(&at.path),
        dir => format!("{} in {dir}", path(&at.path)),
    };
    match op {
        Op::Mkdir { at: to, .. } => format!("mkdir {}", at(to)),
        Op::PutFile { at: to, .. } => format!("put {}", at(to)),
        Op::Symlink { at: to, .. } => format!("symlink {}", at(to)),
        Op::Link { from, to } => format!("link {} to {}", at(from), at(to)),
        Op::Unlink { at: to, .. } => format!("unlink {}", at(to)),
        Op::Rmdir { at: to } => format!("rmdir {}", at(to)),
        Op::Rename { from, to, .. } => format!("rename {} to {}", at(from), at(to)),
        Op::SetAttr { at: to, .. } => format!("attributes of {}", at(to)),
        Op::SetXattr { at: to, .. } => format!("extended attribute of {}", at(to)),
        Op::Check { at: to, .. } => format!("check {}", at(to)),
    }
}
