//! The upkeep of the chunk store: what it stands on in a node, and how it is asked for.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use causeway_base::{GcReport, NodeId, ScrubReport, SiteName, VolumeId};
use causeway_namespace::{
    Aside, Consistency, GcAsk, Namespace, RemoteListing, Run, ScrubAsk, StoreKeeper, SyncTarget, UpkeepStatus,
};
use causeway_namespace_core::listing::{Listed, ManifestPage};
use causeway_replicator::VolumeView;
use causeway_replicator::keeper::{self, Keeper, KeeperOptions, Outcome, Pages, RootVolume, Roots, RootsError};
use tokio::sync::mpsc;

use super::volumes::View;
use crate::config::{LimitsSection, UpkeepSection};

pub(super) fn options(section: &UpkeepSection, limits: &LimitsSection) -> KeeperOptions {
    let some = |time: Duration| (!time.is_zero()).then_some(time);
    KeeperOptions {
        capacity: limits.chunk_capacity.bytes(),
        gc_every: some(section.gc_every.0),
        grace: section.gc_grace.0,
        rate: section.rate.bytes(),
        scrub_cycle: some(section.scrub_cycle.0),
        ..KeeperOptions::default()
    }
}

/// What is in use, as the namespace knows it.
#[derive(Debug)]
pub(super) struct NodeRoots {
    namespace: Weak<Namespace>,
    site: SiteName,
}

impl NodeRoots {
    pub(super) fn new(namespace: &Arc<Namespace>, site: SiteName) -> Self {
        Self { namespace: Arc::downgrade(namespace), site }
    }

    fn namespace(&self, what: &str) -> Result<Arc<Namespace>, RootsError> {
        self.namespace.upgrade().ok_or_else(|| unknown(what, "the node is stopping"))
    }
}

fn unknown(what: &str, reason: impl ToString) -> RootsError {
    RootsError { what: what.to_owned(), reason: reason.to_string() }
}

impl NodeRoots {
    /// The newest state of this node's replica.
    async fn replica(
        &self,
        namespace: &Namespace,
        volume: VolumeId,
        deadline: Duration,
    ) -> Result<Arc<dyn VolumeView>, RootsError> {
        let what = format!("the newest state of volume {volume}");
        if namespace.may_be_wrong(volume) {
            return Err(unknown(
                &what,
                "this replica differs from others, see `causeway status`; nothing is done on its word",
            ));
        }
        let line = namespace.group(volume).map(|group| group.lineage()).unwrap_or_default();
        let view = match is_aside(volume) {
            // It has ended, so it has no leader; nor does it change.
            true => namespace.snapshot(volume, Consistency::Local, deadline).await.map(|snapshot| snapshot.view),
            false => namespace.caught_up(volume, deadline).await,
        };
        let view = view.map_err(|error| unknown(&what, error))?;
        let digest = view.digest().ok_or_else(|| unknown(&what, "a view without a digest"))?;
        // A group that was promoted meanwhile runs as another: the view may be of either, and is told as of neither known.
        let line = match namespace.group(volume) {
            // Its id is that of its line alone, and no group of that id runs.
            _ if is_aside(volume) => line,
            Some(group) if group.lineage() == line => line,
            _ => return Err(unknown(&what, "its history got another line just now")),
        };
        Ok(Arc::new(View(view, digest, line)))
    }
}

/// Whether the id is one under which is read what a promotion ended: no volume's has the top bit.
fn is_aside(volume: VolumeId) -> bool {
    volume.0 >> 63 == 1
}

fn has_replica(namespace: &Namespace, volume: VolumeId) -> bool {
    is_aside(volume)
        || namespace.catalog().volumes.get(&volume).is_some_and(|known| known.members.contains(&namespace.id()))
}

/// Hands on the pages of another node.
async fn pass_on(mut remote: RemoteListing, volume: VolumeId, pages: mpsc::Sender<Result<ManifestPage, RootsError>>) {
    loop {
        let page = tokio::select! {
            page = remote.next() => page,
            () = pages.closed() => return,
        };
        let page = page.map_err(|error| unknown(&format!("what volume {volume} names"), error));
        let last = page.as_ref().map_or(true, |page| page.end);
        if pages.send(page).await.is_err() || last {
            return;
        }
    }
}

#[async_trait]
impl Roots for NodeRoots {
    async fn volumes(&self, deadline: Duration) -> Result<Vec<RootVolume>, RootsError> {
        let what = "the table of volumes";
        let namespace = self.namespace(what)?;
        let volumes = namespace.all_volumes(deadline).await.map_err(|error| unknown(what, error))?;
        let root = |volume: causeway_namespace_core::root::VolumeRecord| {
            let spec = volume.spec;
            // A node of such a site without a replica follows nothing: another one of the site does.
            let follows = volume.members.contains(&namespace.id())
                && (spec.home == self.site || spec.replicas.contains(&self.site));
            RootVolume { id: volume.id, name: spec.name, realm: spec.realm, follows, evictable: !follows }
        };
        // What promotions ended is kept until a person says otherwise, and so is what it names.
        let asides = namespace.asides(&volumes).await.map_err(|error| unknown("what promotions left aside", error))?;
        let aside = |Aside { id, of }| {
            let (name, realm) = (format!("{} (aside)", of.spec.name), of.spec.realm);
            RootVolume { id, name, realm, follows: false, evictable: false }
        };
        Ok(volumes.into_iter().map(root).chain(asides.into_iter().map(aside)).collect())
    }

    fn generation(&self, volume: VolumeId) -> u64 {
        let group = self.namespace.upgrade().and_then(|namespace| namespace.group(volume));
        group.map_or(0, |group| group.generation())
    }

    async fn is_held_elsewhere(&self, volume: VolumeId, deadline: Duration) -> bool {
        let Some(namespace) = self.namespace.upgrade() else { return false };
        let catalog = namespace.catalog();
        let Some(record) = catalog.volumes.get(&volume) else { return false };
        // After a promotion what the lost side had may be here alone.
        if record.spec.home == self.site || !catalog.lineage(volume).is_first() {
            return false;
        }
        let home = SyncTarget::Site(record.spec.home.clone());
        match namespace.sync_wait(volume, &home, None, deadline).await {
            Ok(waited) => waited.reached,
            Err(error) => {
                tracing::info!(%volume, %error, "whether the volume's home is in sync cannot be known: nothing of it is evicted");
                false
            }
        }
    }

    async fn manifests(
        &self,
        volume: VolumeId,
        since: Option<Listed>,
        deadline: Duration,
    ) -> Result<Pages, RootsError> {
        let what = format!("what volume {volume} names");
        let namespace = self.namespace(&what)?;
        if has_replica(&namespace, volume) {
            return Ok(keeper::list(self.replica(&namespace, volume, deadline).await?, since));
        }
        if !namespace.catalog().lineage(volume).is_first() {
            let why = "the volume was promoted, and what that left aside, on other nodes, is not in their lists";
            return Err(unknown(&what, why));
        }
        let remote =
            namespace.remote_manifests(volume, since, deadline).await.map_err(|error| unknown(&what, error))?;
        let (pages, listing) = mpsc::channel(1);
        tokio::spawn(pass_on(remote, volume, pages)); // ends with its reader
        Ok(listing)
    }

    async fn view(&self, volume: VolumeId, deadline: Duration) -> Result<Option<Arc<dyn VolumeView>>, RootsError> {
        let namespace = self.namespace("the newest state of a volume")?;
        if !has_replica(&namespace, volume) {
            return Ok(None);
        }
        Ok(Some(self.replica(&namespace, volume, deadline).await?))
    }
}

/// The keeper as the namespace asks it.
#[derive(Debug)]
pub(super) struct NodeKeeper {
    pub(super) keeper: Arc<Keeper>,
    pub(super) roots: Arc<NodeRoots>,
}

fn ticket(ticket: u64) -> Option<u64> {
    (ticket != 0).then_some(ticket)
}

fn run<T>((ticket, outcome): (u64, Outcome<T>)) -> Run<T> {
    let outcome = match outcome {
        Outcome::Running => None,
        Outcome::Done(done) => Some(Ok(done)),
        Outcome::Failed(why) => Some(Err(why)),
        Outcome::Unknown => Some(Err("the node does not know this run any more; it was started again, say".to_owned())),
    };
    Run { node: NodeId(0), ticket, outcome }
}

#[async_trait]
impl StoreKeeper for NodeKeeper {
    async fn gc(&self, ask: GcAsk, wait: Duration) -> Run<GcReport> {
        // Whoever asks waits for it: as fast as the disk gives.
        let how = keeper::GcAsk { dry_run: ask.dry_run, grace: ask.grace, full_speed: true, evict: None };
        run(self.keeper.gc(ticket(ask.ticket), how, wait).await)
    }

    async fn scrub(&self, ask: ScrubAsk, wait: Duration) -> Run<ScrubReport> {
        let how = keeper::ScrubAsk { read: ask.now, deep: ask.deep };
        run(self.keeper.scrub(ticket(ask.ticket), how, wait).await)
    }

    async fn manifests(
        &self,
        volume: VolumeId,
        since: Option<Listed>,
        deadline: Duration,
    ) -> Result<mpsc::Receiver<Result<ManifestPage, String>>, String> {
        let roots = &self.roots;
        let namespace = roots.namespace("what a volume names").map_err(|error| error.to_string())?;
        if !has_replica(&namespace, volume) {
            return Err(format!("this node has no replica of volume {volume}"));
        }
        let view = roots.replica(&namespace, volume, deadline).await.map_err(|error| error.to_string())?;
        let (pages, told) = mpsc::channel(1);
        // The other began with what this replica said, which was wrong some time.
        let since = since.filter(|_| roots.generation(volume) == 0);
        let mut listing = keeper::list(view, since);
        // Ends with the listing, or with its reader.
        tokio::spawn(async move {
            while let Some(page) = listing.recv().await {
                if pages.send(page.map_err(|error| error.to_string())).await.is_err() {
                    return;
                }
            }
        });
        Ok(told)
    }

    fn status(&self) -> UpkeepStatus {
        let status = self.keeper.status();
        let (gc_last_at, gc_last) = status.gc_last.unzip();
        UpkeepStatus {
            gc_running: status.gc_running,
            gc_last,
            gc_last_at: gc_last_at.unwrap_or_default(),
            gc_error: status.gc_error,
            freed_bytes: status.freed_bytes,
            condemned: status.condemned,
            scrub_passes: status.scrub.passes,
            scrub_completed_at: status.scrub.completed,
            scrub_found: status.scrub.found,
            scrub_healed: status.scrub.healed,
            unhealed: status.unhealed,
            scrub_error: status.scrub_error,
        }
    }
}
