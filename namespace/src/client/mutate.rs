//! Batches, at most once.

use causeway_base::{Ino, Seq, VolumeId};
use causeway_namespace_core::command::{At, Op, OpDone, Refusal, SessionId};
use causeway_namespace_core::manage::ManageOp;
use causeway_proto::v1;

use super::attempt::{Call, bad_answer, shown};
use super::error::Failure;
use super::sessions::{Session, Ticket};
use super::{ClientError, NamespaceClient, Node};
use crate::entry::{Mutated, Place};
use crate::wire::{self, Wire, WireError};

/// A batch with its session and number, for callers that keep those themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbered {
    /// From [`NamespaceClient::open_session`].
    pub session: SessionId,
    /// From 1 upwards; the same again is answered with the first answer.
    pub number: u64,
    /// The answers of all numbers below have arrived.
    pub acked_below: u64,
    /// Applied in order, all or none; at most [`causeway_namespace_core::command::OPS_MAX`].
    pub ops: Vec<Op>,
}

/// What a volume answered to a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Done(Mutated),
    Refused(Refusal),
    SessionUnknown,
    Forgotten,
    WindowExceeded,
    Invalid(String),
}

impl NamespaceClient {
    /// Applies a batch (in order, all or none), at most once, and waits until it is committed.
    ///
    /// # Errors
    /// [`ClientError::Refused`] by the namespace, nothing applied; [`ClientError::Unknown`] if no answer came in time: it is
    /// applied once or not at all, and if it has not arrived yet, it will be refused once a later batch of this client did.
    ///
    /// Cancel safety: dropping it leaves the outcome unknown.
    pub async fn mutate(&self, volume: VolumeId, ops: Vec<Op>) -> Result<Mutated, ClientError> {
        let call = self.call(format!("{} in {volume}", told(&ops)));
        self.perform(volume, Work::Batch(wire::all_into(ops)), call).await
    }

    /// Applies one operation on the volume as a whole, at most once, and waits until it is committed.
    ///
    /// # Errors
    /// As [`NamespaceClient::mutate`]. Cancel safety: as there.
    pub async fn manage(&self, volume: VolumeId, op: ManageOp) -> Result<Mutated, ClientError> {
        let call = self.call(format!("{} in {volume}", told_manage(&op)));
        self.perform(volume, Work::Manage(op.into_wire()), call).await
    }

    /// Applies a batch at most once for an id that the caller chose, of random bits: after an unknown outcome the same id,
    /// from whatever process and through whatever node, is answered with what became of it. `print` tells this batch from
    /// another under the same id, which is refused. The volume remembers the newest 16,384 ids and sessions.
    ///
    /// # Errors
    /// As [`NamespaceClient::mutate`]. Cancel safety: as there.
    pub async fn mutate_as(
        &self,
        volume: VolumeId,
        id: u128,
        print: u128,
        ops: Vec<Op>,
    ) -> Result<Mutated, ClientError> {
        let mut call = self.call(format!("{} in {volume}", told(&ops)));
        let message = v1::OnceRequest {
            volume: volume.0,
            id: wire::id_bytes(id),
            print: wire::id_bytes(print),
            ops: wire::all_into(ops),
        };
        loop {
            let (node, limit) = self.next(&call);
            match node.manage().once(self.request(message.clone(), limit)).await {
                Ok(response) => {
                    call.succeeded(self);
                    let answer = answer(response.into_inner()).map_err(|error| bad_answer(&call.what, &error))?;
                    let settled = settled(answer, &node, &mut call)?;
                    return self.settled_in_line(volume, settled, &node, &call);
                }
                Err(status) => self.failed(&mut call, Failure::of(&status, &node.address)).await?,
            }
        }
    }

    async fn perform(&self, volume: VolumeId, work: Work, mut call: Call) -> Result<Mutated, ClientError> {
        let session = self.session(volume);
        let Some(ticket) = session.ticket().await else {
            return Err(ClientError::Config("the client is shut down".to_owned()));
        };
        loop {
            let id = self.session_id(volume, &session, &mut call).await?;
            match self.in_session(volume, id, &ticket, &work, &mut call).await? {
                Some(done) => return Ok(done),
                // Nothing was applied under the forgotten session: another may take the same number.
                None => forget(&session, id).await,
            }
        }
    }

    /// Renames by absolute paths of the namespace, replacing atomically what POSIX `rename` would (unless `no_replace`).
    ///
    /// # Errors
    /// [`ClientError::CrossVolume`] between volumes, [`ClientError::NoVolume`] outside of any; else as
    /// [`NamespaceClient::mutate`].
    pub async fn rename(&self, from: &[u8], to: &[u8], no_replace: bool) -> Result<Mutated, ClientError> {
        let what = format!("rename {} to {}", shown(from), shown(to));
        let inside = async |path: &[u8]| match self.resolve(path).await? {
            Place::InVolume { volume, path } => Ok((volume, At { dir: Ino::ROOT, path })),
            _ => Err(ClientError::NoVolume { what: what.clone(), path: shown(path) }),
        };
        let ((from_volume, from_at), (to_volume, to_at)) = (inside(from).await?, inside(to).await?);
        if from_volume.id != to_volume.id {
            let (from, to) = (shown(from), shown(to));
            let (from_volume, to_volume) = (from_volume.spec.name, to_volume.spec.name);
            return Err(ClientError::CrossVolume { from, to, from_volume, to_volume });
        }
        self.mutate(from_volume.id, vec![Op::Rename { from: from_at, to: to_at, no_replace }]).await
    }

    /// Sends a batch with the session and number given, once to one node, and answers with what became of it. The same
    /// numbers again, to any node, get the same answer: for gateways that keep sessions of their own.
    ///
    /// # Errors
    /// As [`NamespaceClient::mutate`], after one attempt.
    pub async fn mutate_once(&self, volume: VolumeId, batch: Numbered) -> Result<Mutated, ClientError> {
        let mut call = self.call(format!("{} in {volume}", told(&batch.ops)));
        let message = v1::MutateRequest {
            volume: volume.0,
            session: batch.session.0,
            number: batch.number,
            acked_below: batch.acked_below,
            ops: wire::all_into(batch.ops),
        };
        let (node, _) = self.next(&call);
        match self.send(&node, message, self.deadline, &call).await? {
            Ok(answer) => {
                let settled = settled(answer, &node, &mut call)?;
                self.settled_in_line(volume, settled, &node, &call)
            }
            Err(failure) => {
                call.unknown = failure.class == causeway_base::RetryClass::Unknown;
                Err(failure.end(&call.what, call.waited(), call.unknown))
            }
        }
    }

    /// Opens a session on a volume, for [`NamespaceClient::mutate_once`]. One that is opened and never used costs the
    /// volume a place among its 16,384 until it is the one unused longest.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn open_session(&self, volume: VolumeId) -> Result<SessionId, ClientError> {
        let client = wire::id_bytes(self.shared.config.client.0);
        let message = v1::OpenSessionRequest { volume: volume.0, client };
        let attempt = |node: Node, limit| {
            let request = self.request(message.clone(), limit);
            async move { node.namespace().open_session(request).await }
        };
        let answer = self.try_all(format!("open a session on {volume}"), attempt).await?;
        Ok(SessionId(answer.session))
    }

    async fn session_id(&self, volume: VolumeId, session: &Session, call: &mut Call) -> Result<SessionId, ClientError> {
        let mut id = session.id.lock().await;
        if let Some(id) = *id {
            return Ok(id);
        }
        let left = call.left();
        let opened = self.with_deadline(left).open_session(volume).await?;
        *id = Some(opened);
        Ok(opened)
    }

    /// Tries under one session until there is an answer. `None`: the session is forgotten, and the batch surely not applied.
    async fn in_session(
        &self,
        volume: VolumeId,
        session: SessionId,
        ticket: &Ticket,
        work: &Work,
        call: &mut Call,
    ) -> Result<Option<Mutated>, ClientError> {
        loop {
            let (node, limit) = self.next(call);
            let (volume, session, number) = (volume.0, session.0, ticket.number);
            let acked_below = ticket.acked_below();
            let sent = match work.clone() {
                Work::Batch(ops) => {
                    let message = v1::MutateRequest { volume, session, number, acked_below, ops };
                    self.send(&node, message, limit, call).await?
                }
                Work::Manage(op) => {
                    let message = v1::ApplyRequest { volume, session, number, acked_below, op: Some(op) };
                    let response = node.manage().apply(self.request(message, limit)).await;
                    received(response.map(tonic::Response::into_inner), &node, call)?
                }
            };
            match sent {
                Ok(Answer::SessionUnknown) if !call.unknown => return Ok(None),
                Ok(Answer::WindowExceeded) => {
                    let failure = Failure::transient(&node.address, "too many batches of the session wait");
                    self.stay(call, failure).await?;
                }
                Ok(answer) => {
                    call.succeeded(self);
                    let settled = settled(answer, &node, call)?;
                    return self.settled_in_line(VolumeId(volume), settled, &node, call).map(Some);
                }
                Err(failure) => self.failed(call, failure).await?,
            }
        }
    }

    /// What a line that has ended acknowledges may not be in what followed it.
    fn settled_in_line(
        &self,
        volume: VolumeId,
        done: Mutated,
        node: &Node,
        call: &Call,
    ) -> Result<Mutated, ClientError> {
        if self.saw(volume, done.seq) {
            return Ok(done);
        }
        let message = "it was acknowledged in a line of the volume that a promotion has ended".to_owned();
        Err(ClientError::Unknown {
            what: call.what.clone(),
            node: node.address.clone(),
            message,
            waited: call.waited(),
        })
    }

    /// One attempt. The outer error is an answer that does not decode.
    async fn send(
        &self,
        node: &Node,
        message: v1::MutateRequest,
        limit: std::time::Duration,
        call: &Call,
    ) -> Result<Result<Answer, Failure>, ClientError> {
        received(node.mutate(message, limit).await, node, call)
    }
}

/// What is to be done in a session.
#[derive(Clone, Debug)]
enum Work {
    Batch(Vec<v1::Op>),
    Manage(v1::ManageOp),
}

/// What came of an attempt. The outer error is an answer that does not decode.
fn received(
    response: Result<v1::MutateResponse, tonic::Status>,
    node: &Node,
    call: &Call,
) -> Result<Result<Answer, Failure>, ClientError> {
    match response {
        Ok(response) => answer(response).map(Ok).map_err(|error| bad_answer(&call.what, &error)),
        Err(status) => Ok(Err(Failure::of(&status, &node.address))),
    }
}

async fn forget(session: &Session, id: SessionId) {
    let mut current = session.id.lock().await;
    if *current == Some(id) {
        *current = None;
    }
}

fn answer(message: v1::MutateResponse) -> Result<Answer, WireError> {
    use v1::mutate_response::Outcome;
    Ok(match message.outcome.ok_or(WireError::Unset("outcome"))? {
        Outcome::Done(done) => {
            let done: Vec<OpDone> = wire::all(done.ops)?;
            Answer::Done(Mutated { seq: Seq(message.seq), done })
        }
        Outcome::Refused(refusal) => Answer::Refused(Refusal::from_wire(refusal)?),
        Outcome::SessionUnknown(_) => Answer::SessionUnknown,
        Outcome::Forgotten(_) => Answer::Forgotten,
        Outcome::WindowExceeded(_) => Answer::WindowExceeded,
        Outcome::Invalid(reason) => Answer::Invalid(reason),
    })
}

/// What a final answer means for the caller.
fn settled(answer: Answer, node: &Node, call: &mut Call) -> Result<Mutated, ClientError> {
    let what = call.what.clone();
    let node = node.address.clone();
    let unknown = |message: &str| ClientError::Unknown {
        what: what.clone(),
        node: node.clone(),
        message: message.to_owned(),
        waited: call.waited(),
    };
    Err(match answer {
        Answer::Done(done) => return Ok(done),
        Answer::Refused(refusal) => ClientError::Refused { what, refusal },
        Answer::SessionUnknown => unknown("the volume has forgotten the session"),
        Answer::Forgotten => unknown("it was answered before, and the answer is forgotten"),
        Answer::WindowExceeded => {
            let message = "too many batches of the session are unacknowledged".to_owned();
            ClientError::Unavailable { what, node, message, waited: call.waited() }
        }
        Answer::Invalid(message) => ClientError::Rejected { what, node, reason: "invalid".to_owned(), message },
    })
}

/// An operation on a volume for people.
fn told_manage(op: &ManageOp) -> String {
    match op {
        ManageOp::CreateSnapshot { name } => format!("create snapshot {}", shown(name)),
        ManageOp::DeleteSnapshot { name } => format!("delete snapshot {}", shown(name)),
        ManageOp::SetQuota { at, .. } => format!("set the quota of {}", shown(&at.path)),
        ManageOp::SetOwnerQuota { uid, .. } => format!("set the quota of user {uid}"),
        ManageOp::SetRetention { .. } => "set the retention".to_owned(),
        ManageOp::AcquireLock { at, .. } => format!("lock {}", shown(&at.path)),
        ManageOp::RenewLock { at, .. } => format!("renew the lock of {}", shown(&at.path)),
        ManageOp::ReleaseLock { at, .. } => format!("unlock {}", shown(&at.path)),
    }
}

/// A batch for people.
fn told(ops: &[Op]) -> String {
    let first = ops.first().map(|op| match op {
        Op::Mkdir { at, .. } => format!("mkdir {}", shown(&at.path)),
        Op::PutFile { at, .. } => format!("put {}", shown(&at.path)),
        Op::Symlink { at, .. } => format!("symlink {}", shown(&at.path)),
        Op::Link { from, to } => format!("link {} as {}", shown(&from.path), shown(&to.path)),
        Op::Unlink { at, .. } => format!("unlink {}", shown(&at.path)),
        Op::Rmdir { at } => format!("rmdir {}", shown(&at.path)),
        Op::Rename { from, to, .. } => format!("rename {} to {}", shown(&from.path), shown(&to.path)),
        Op::SetAttr { at, .. } => format!("change attributes of {}", shown(&at.path)),
        Op::SetXattr { at, .. } => format!("change an extended attribute of {}", shown(&at.path)),
        Op::Check { at, .. } => format!("check {}", shown(&at.path)),
    });
    match (first, ops.len()) {
        (Some(first), 1) => first,
        (Some(first), count) => format!("{first} and {} more", count - 1),
        (None, _) => "an empty batch".to_owned(),
    }
}
