//! `causeway batch`

use std::io::Read as _;

use bytes::Bytes;
use causeway_base::{Seq, Timestamp};
use causeway_namespace_core::command::{Expect, OPS_MAX, Op};
use causeway_namespace_core::inode::Content;
use causeway_vfs::{Located, VfsError};
use serde::{Deserialize, Serialize};

use super::args::{BatchArgs, Global};
use super::attr::parse_mode;
use super::exit::{Exit, Failure};
use super::files::new_attr;
use super::session::{Session, parse_time};
use crate::output::{self, parse_name};

/// Largest batch read, in bytes.
const BYTES_MAX: u64 = 16 << 20;

/// A line.
#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
enum Line {
    Mkdir {
        path: String,
        #[serde(default)]
        parents: bool,
        mode: Option<String>,
    },
    Put {
        path: String,
        text: Option<String>,
        hex: Option<String>,
        mode: Option<String>,
        expect: Option<Expected>,
    },
    Symlink {
        path: String,
        target: String,
    },
    Link {
        from: String,
        to: String,
    },
    Unlink {
        path: String,
        expect: Option<Expected>,
    },
    Rmdir {
        path: String,
    },
    Rename {
        from: String,
        to: String,
        #[serde(default)]
        no_replace: bool,
    },
    Setattr {
        path: String,
        mode: Option<String>,
        uid: Option<u32>,
        gid: Option<u32>,
        mtime: Option<String>,
        expect: Option<Expected>,
    },
    Xattr {
        path: String,
        name: String,
        value: Option<String>,
    },
    Check {
        path: String,
        expect: Option<Expected>,
    },
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Expected {
    Absent,
    Version(u64),
    Token(u64),
}

#[derive(Serialize)]
struct Done {
    seq: u64,
    operations: Vec<Touched>,
}

#[derive(Serialize)]
struct Touched {
    ino: u64,
    version: u64,
}

pub(super) async fn run(global: &Global, args: BatchArgs) -> anyhow::Result<Exit> {
    let text = read(&args)?;
    let lines = parse(&text)?;
    let session = Session::connect(global).await?;
    let mut reader = Reader { session: &session, first: None };
    let mut ops = Vec::with_capacity(lines.len());
    for (number, line) in lines {
        let op = reader.op(line).await.map_err(|error| error.context(format!("line {number}")))?;
        ops.push(op);
    }
    let Some(first) = reader.first else { return Err(Failure::error(Exit::Usage, "the batch has no operation")) };
    let names = session.vfs.names();
    let mutated = match &args.request_id {
        Some(id) => {
            // The time of an operation that names none is no part of what the batch means.
            let (id, print) = (hash(id.as_bytes()), hash(text.as_bytes()));
            names.mutate_as(first.volume.id, id, print, ops).await?
        }
        None => names.mutate(first.volume.id, ops).await?,
    };
    session.note(first.volume.id, mutated.seq)?;
    let operations = mutated.done.iter().map(|done| Touched { ino: done.ino.get(), version: done.version.get() });
    let done = Done { seq: mutated.seq.get(), operations: operations.collect() };
    output::print(global.output, &done, |done| format!("{} operations at seq {}\n", done.operations.len(), done.seq))?;
    Ok(Exit::Done)
}

fn hash(bytes: &[u8]) -> u128 {
    let hash = blake3::hash(bytes);
    hash.as_bytes().first_chunk().map_or(0, |half| u128::from_be_bytes(*half))
}

fn read(args: &BatchArgs) -> anyhow::Result<String> {
    let mut text = String::new();
    let shown = args.file.display();
    let bad = |error: std::io::Error| Failure::error(Exit::Usage, format!("read {shown}: {error}"));
    let read = if args.file.as_os_str() == "-" {
        std::io::stdin().take(BYTES_MAX + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(&args.file).map_err(bad)?.take(BYTES_MAX + 1).read_to_string(&mut text)
    };
    let read = read.map_err(bad)?;
    if read as u64 > BYTES_MAX {
        return Err(Failure::error(Exit::Usage, format!("{shown} is larger than {BYTES_MAX} bytes")));
    }
    Ok(text)
}

fn parse(text: &str) -> anyhow::Result<Vec<(usize, Line)>> {
    let mut lines = Vec::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let line = serde_json::from_str(line)
            .map_err(|error| Failure::error(Exit::Usage, format!("line {number}: {error}; `causeway batch --help`")))?;
        lines.push((number, line));
    }
    if lines.is_empty() || lines.len() > OPS_MAX {
        let message = format!("a batch of {} operations, 1 to {OPS_MAX} are allowed", lines.len());
        return Err(Failure::error(Exit::Usage, message));
    }
    Ok(lines)
}

struct Reader<'a> {
    session: &'a Session,
    first: Option<Located>,
}

impl Reader<'_> {
    async fn place(&mut self, path: &str) -> anyhow::Result<Located> {
        let place = self.session.locate(path).await?;
        match &self.first {
            Some(first) if first.volume.id != place.volume.id => {
                Err(VfsError::CrossVolume { from: first.shown.clone(), to: place.shown }.into())
            }
            Some(_) => Ok(place),
            None => {
                self.first = Some(place.clone());
                Ok(place)
            }
        }
    }

    async fn op(&mut self, line: Line) -> anyhow::Result<Op> {
        Ok(match line {
            Line::Mkdir { path, parents, mode } => {
                Op::Mkdir { at: self.place(&path).await?.at(), attr: new_attr(mode_or(mode, 0o755)?), parents }
            }
            Line::Put { path, text, hex, mode, expect } => {
                let bytes = match (text, hex) {
                    (Some(text), None) => text.into_bytes(),
                    (None, Some(hex)) => hex::decode(&hex).map_err(|error| usage(format!("hex: {error}")))?,
                    (None, None) => Vec::new(),
                    (Some(_), Some(_)) => return Err(usage("text and hex: one of them")),
                };
                let at = self.place(&path).await?.at();
                let content = Content::Inline(bytes.into());
                Op::PutFile { at, attr: new_attr(mode_or(mode, 0o644)?), content, expect: expected(expect) }
            }
            Line::Symlink { path, target } => {
                Op::Symlink { at: self.place(&path).await?.at(), attr: new_attr(0o777), target: raw(&target)? }
            }
            Line::Link { from, to } => {
                Op::Link { from: self.place(&from).await?.at(), to: self.place(&to).await?.at() }
            }
            Line::Unlink { path, expect } => Op::Unlink { at: self.place(&path).await?.at(), expect: expected(expect) },
            Line::Rmdir { path } => Op::Rmdir { at: self.place(&path).await?.at() },
            Line::Rename { from, to, no_replace } => {
                Op::Rename { from: self.place(&from).await?.at(), to: self.place(&to).await?.at(), no_replace }
            }
            Line::Setattr { path, mode, uid, gid, mtime, expect } => Op::SetAttr {
                at: self.place(&path).await?.at(),
                mode: mode.map(|mode| parse_mode(&mode)).transpose()?,
                uid,
                gid,
                mtime: mtime.map(|time| time_of(&time)).transpose()?,
                expect: expected(expect),
            },
            Line::Xattr { path, name, value } => Op::SetXattr {
                at: self.place(&path).await?.at(),
                name: raw(&name)?,
                value: value.map(|value| raw(&value)).transpose()?,
            },
            Line::Check { path, expect } => Op::Check { at: self.place(&path).await?.at(), expect: expected(expect) },
        })
    }
}

fn usage(message: impl Into<String>) -> anyhow::Error {
    Failure::error(Exit::Usage, message)
}

fn mode_or(mode: Option<String>, default: u32) -> anyhow::Result<u32> {
    mode.map_or(Ok(default), |mode| parse_mode(&mode))
}

fn time_of(text: &str) -> anyhow::Result<Timestamp> {
    parse_time(text).ok_or_else(|| usage(format!("{text:?} is no time")))
}

fn raw(text: &str) -> anyhow::Result<Bytes> {
    let bytes =
        parse_name(text).ok_or_else(|| usage(format!("{text:?}: after a \\ two digits as in \\xff are expected")))?;
    Ok(bytes.into())
}

fn expected(expect: Option<Expected>) -> Expect {
    match expect {
        None => Expect::Any,
        Some(Expected::Absent) => Expect::Absent,
        Some(Expected::Version(version)) => Expect::Version(Seq(version)),
        Some(Expected::Token(token)) => Expect::Token(token),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_what_is_wrong_is_named() {
        let lines = parse(
            "{\"op\":\"put\",\"path\":\"/d/f\",\"text\":\"x\",\"expect\":\"absent\"}\n\n\
            {\"op\":\"unlink\",\"path\":\"/d/g\",\"expect\":{\"version\":7}}\n",
        )
        .unwrap();
        assert!(matches!(&lines[0], (1, Line::Put { expect: Some(Expected::Absent), .. })));
        assert!(matches!(&lines[1], (3, Line::Unlink { expect: Some(Expected::Version(7)), .. })));
        for (bad, told) in [
            ("{\"op\":\"mkdir\"}", "line 1: missing field `path`"),
            ("{\"op\":\"fly\",\"path\":\"/\"}", "unknown variant"),
            ("{\"op\":\"rmdir\",\"path\":\"/d\",\"force\":true}", "unknown field `force`"),
            ("", "0 operations"),
        ] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }
}
