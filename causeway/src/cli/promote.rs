//! `causeway volume promote`

use std::time::Duration;

use causeway_base::SiteName;
use causeway_namespace::Promoted;
use causeway_namespace_core::promotion::PromotionRecord;
use serde::Serialize;

use super::args::Global;
use super::aside::{self, ShownSeq};
use super::confirm::confirmed;
use super::exit::Exit;
use super::session::Session;
use crate::output;

/// Looking for leaders that are gone takes some elections, for two groups.
const DEADLINE_MIN: Duration = Duration::from_secs(120);

/// What is asked.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) name: String,
    pub(super) site: SiteName,
    pub(super) confirm: Option<String>,
    pub(super) root: bool,
    pub(super) reason: String,
}

#[derive(Serialize)]
struct Shown {
    volume: String,
    site: SiteName,
    epoch: u64,
    /// It was promoted there before; nothing was done.
    already: bool,
    promotion: PromotionRecord,
    root: Option<PromotionRecord>,
    /// What the surviving side has in a log and did not know to be committed.
    may_be_lost: Vec<ShownSeq>,
}

pub(super) async fn promote(global: &Global, asked: Asked) -> anyhow::Result<Exit> {
    confirmed(&asked.name, asked.confirm.as_deref(), || {
        format!(
            "Promoting volume {} at {} may lose acknowledged writes, and ends what other sites have of it for ever.\n\
             Are the nodes of the other sites known to be down? As long as they run and do not hear of this, they may go\n\
             on acknowledging writes, which are then only kept aside.",
            asked.name, asked.site
        )
    })?;
    let global = Global { site: Some(asked.site.clone()), ..global.clone() };
    let session = Session::connect(&global).await?;
    let names = session.vfs.names().with_deadline(global.timeout.max(DEADLINE_MIN));
    let Promoted { volume, promotion, root, already } =
        names.promote_volume(&asked.name, &asked.site, asked.root, &asked.reason).await?;
    let mut may_be_lost = Vec::new();
    if promotion.last > promotion.fork {
        may_be_lost = aside::seqs(&names, &asked.name, promotion.lineage.founder, promotion.before).await?;
    }
    let shown = Shown {
        volume: volume.spec.name,
        site: asked.site,
        epoch: volume.epoch.get(),
        already,
        promotion,
        root,
        may_be_lost,
    };
    output::print(global.output, &shown, told)?;
    Ok(Exit::Done)
}

fn told(shown: &Shown) -> String {
    let Shown { volume, site, epoch, already, promotion, root, may_be_lost } = shown;
    let (fork, last, begins) = (promotion.fork, promotion.last, promotion.seq);
    let mut text = String::new();
    if let Some(root) = root {
        text += &format!(
            "root group promoted at {}: everything up to seq {} stayed, it goes on at {}\n",
            root.site, root.fork, root.seq
        );
    }
    text += &if *already {
        format!("volume {volume} was promoted at {site} before, epoch {epoch}; nothing was done\n")
    } else {
        format!("volume {volume} promoted at {site}, epoch {epoch}\n")
    };
    text += &format!("everything up to seq {fork} stayed; it goes on at {begins}\n");
    if last > fork {
        text += &format!(
            "may be lost: seqs {} to {last}, in the log of this side and not known to be committed\n",
            fork.get() + 1
        );
        for seq in may_be_lost {
            text += &seq.told();
        }
    } else {
        text += "no seq above it was in a log of this side\n";
    }
    text += &format!(
        "What the other side acknowledged after its last contact is not known here. When its nodes are back:\n  \
         causeway volume aside {volume}                 what they acknowledged alone\n  \
         causeway volume set {volume} --survive site    it votes at {site} only until then\n"
    );
    text
}
