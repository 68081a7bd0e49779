//! `causeway chmod | chown | touch | ln | xattr`

use std::io::Write as _;

use bytes::Bytes;
use causeway_base::{Clock as _, SystemClock};
use causeway_namespace::Consistency;
use causeway_namespace_core::command::{Errno, Expect, Op};
use causeway_namespace_core::inode::Content;
use causeway_vfs::{Located, VfsError};
use serde::Serialize;

use super::args::{ChmodArgs, ChownArgs, Global, LnArgs, TouchArgs, XattrCommand};
use super::exit::{Exit, Failure};
use super::files::new_attr;
use super::session::{Session, parse_time};
use crate::output::{self, parse_name, show_name};

fn set_attr(place: &Located) -> Op {
    Op::SetAttr { at: place.at(), mode: None, uid: None, gid: None, mtime: None, expect: Expect::Any }
}

/// An octal mode.
pub(super) fn parse_mode(text: &str) -> anyhow::Result<u32> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
    mode.ok_or_else(|| Failure::error(Exit::Usage, format!("{text:?} is no mode: octal, as in 0644")))
}

pub(super) async fn chmod(global: &Global, args: ChmodArgs) -> anyhow::Result<Exit> {
    let wanted = parse_mode(&args.mode)?;
    let session = Session::connect(global).await?;
    let place = session.locate(&args.path).await?;
    let mut op = set_attr(&place);
    if let Op::SetAttr { mode, .. } = &mut op {
        *mode = Some(wanted);
    }
    session.mutate(&place, vec![op]).await?;
    Ok(Exit::Done)
}

pub(super) async fn chown(global: &Global, args: ChownArgs) -> anyhow::Result<Exit> {
    let bad = || Failure::error(Exit::Usage, format!("{:?} is no owner: UID, UID:GID or :GID", args.owner));
    let id = |text: &str| match text {
        "" => Ok(None),
        text => text.parse::<u32>().map(Some).map_err(|_| bad()),
    };
    let (owner, group) = args.owner.split_once(':').unwrap_or((&args.owner, ""));
    let (owner, group) = (id(owner)?, id(group)?);
    if owner.or(group).is_none() {
        return Err(bad());
    }
    let session = Session::connect(global).await?;
    let place = session.locate(&args.path).await?;
    let mut op = set_attr(&place);
    if let Op::SetAttr { uid, gid, .. } = &mut op {
        (*uid, *gid) = (owner, group);
    }
    session.mutate(&place, vec![op]).await?;
    Ok(Exit::Done)
}

pub(super) async fn touch(global: &Global, args: TouchArgs) -> anyhow::Result<Exit> {
    let time = match &args.time {
        Some(text) => parse_time(text).ok_or_else(|| {
            Failure::error(Exit::Usage, format!("{text:?} is no time: as in 2026-11-24T12:00:00Z or 10m (ago)"))
        })?,
        None => SystemClock.now(),
    };
    let session = Session::connect(global).await?;
    let place = session.locate(&args.path).await?;
    let mut op = set_attr(&place);
    if let Op::SetAttr { mtime, .. } = &mut op {
        *mtime = Some(time);
    }
    match session.mutate(&place, vec![op]).await {
        Err(error) if is_missing(&error) => {
            let mut attr = new_attr(0o644);
            attr.mtime = time;
            let content = Content::Inline(Bytes::new());
            let op = Op::PutFile { at: place.at(), attr, content, expect: Expect::Absent };
            session.mutate(&place, vec![op]).await?;
        }
        other => drop(other?),
    }
    Ok(Exit::Done)
}

fn is_missing(error: &anyhow::Error) -> bool {
    error.downcast_ref::<VfsError>().and_then(VfsError::errno) == Some(Errno::NotFound)
}

pub(super) async fn ln(global: &Global, args: LnArgs) -> anyhow::Result<Exit> {
    let session = Session::connect(global).await?;
    let place = session.locate(&args.path).await?;
    let op = if args.symbolic {
        let bad = || {
            Failure::error(Exit::Usage, format!("{:?}: after a \\ two digits as in \\xff are expected", args.target))
        };
        let target = parse_name(&args.target).ok_or_else(bad)?.into();
        Op::Symlink { at: place.at(), attr: new_attr(0o777), target }
    } else {
        let from = session.locate(&args.target).await?;
        if from.volume.id != place.volume.id {
            return Err(VfsError::CrossVolume { from: from.shown, to: place.shown }.into());
        }
        Op::Link { from: from.at(), to: place.at() }
    };
    session.mutate(&place, vec![op]).await?;
    Ok(Exit::Done)
}

fn bytes_of(text: &str) -> anyhow::Result<Bytes> {
    let bad = || Failure::error(Exit::Usage, format!("{text:?}: after a \\ two digits as in \\xff are expected"));
    Ok(parse_name(text).ok_or_else(bad)?.into())
}

#[derive(Serialize)]
struct Attribute {
    name: String,
    value: String,
}

pub(super) async fn xattr(global: &Global, command: XattrCommand) -> anyhow::Result<Exit> {
    let session = Session::connect(global).await?;
    match command {
        XattrCommand::Set { path, name, value } => {
            let place = session.locate(&path).await?;
            let op = Op::SetXattr { at: place.at(), name: bytes_of(&name)?, value: Some(bytes_of(&value)?) };
            session.mutate(&place, vec![op]).await?;
        }
        XattrCommand::Rm { path, name } => {
            let place = session.locate(&path).await?;
            let op = Op::SetXattr { at: place.at(), name: bytes_of(&name)?, value: None };
            session.mutate(&place, vec![op]).await?;
        }
        XattrCommand::Get { path, name } => {
            let place = session.locate(&path).await?;
            let name = bytes_of(&name)?;
            let inode = session.vfs.stat(&place, session.fresh(&place, Consistency::Linearizable)).await?.value.1;
            let found = inode.xattrs.into_iter().find(|(kept, _)| *kept == name);
            let (_, value) = found.ok_or_else(|| {
                Failure::error(Exit::NotFound, format!("{path}: no extended attribute {}", show_name(&name)))
            })?;
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(&value)?;
            stdout.flush()?;
        }
        XattrCommand::List { path } => {
            let place = session.locate(&path).await?;
            let inode = session.vfs.stat(&place, session.fresh(&place, Consistency::Linearizable)).await?.value.1;
            let show = |(name, value): &(Bytes, Bytes)| Attribute { name: show_name(name), value: show_name(value) };
            let all: Vec<Attribute> = inode.xattrs.iter().map(show).collect();
            output::print(global.output, &all, |all| {
                all.iter().map(|one| format!("{}={}\n", one.name, one.value)).collect()
            })?;
        }
    }
    Ok(Exit::Done)
}
