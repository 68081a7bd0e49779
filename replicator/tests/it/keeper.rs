//! Collections by what volumes name, and that they stop when that is not known for certain.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use causeway_base::{GcReport, Ino, Seq, SystemClock, VolumeId};
use causeway_namespace_core::digest::Digest;
use causeway_namespace_core::inode::{Content, ManifestRef};
use causeway_namespace_core::listing::Listed;
use causeway_namespace_core::records::{ReadError, Record, Records};
use causeway_replicator::keeper::{
    GcAsk, Keeper, KeeperOptions, KeeperParts, Outcome, Pages, RootVolume, Roots, RootsError, ScrubAsk, add_inodes,
    list,
};
use causeway_replicator::{VolumeSource, VolumeView};

use crate::cluster::*;
use crate::common::*;

/// The volume's newest state, and one that was replaced but is kept.
#[derive(Debug)]
struct Versions {
    newest: Box<dyn VolumeView>,
    source: Arc<dyn VolumeSource>,
    replaced: Option<Arc<dyn VolumeView>>,
    oldest: Seq,
}

impl Records for Versions {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        self.newest.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Record>, ReadError> {
        self.newest.scan(from, to, limit)
    }
}

impl VolumeView for Versions {
    fn seq(&self) -> Seq {
        self.newest.seq()
    }

    fn digest(&self) -> Digest {
        self.newest.digest()
    }

    fn older(
        &self,
        table: &(Bytes, Bytes),
        from: &[u8],
        limit: usize,
    ) -> Result<(Vec<Record>, Option<Bytes>), ReadError> {
        let Some(replaced) = &self.replaced else { return Ok((Vec::new(), None)) };
        let start = if from.is_empty() { &table.0[..] } else { from };
        let page = replaced.scan(start, &table.1, limit)?;
        let next = page.last().map(|(last, _)| [last.as_ref(), &[0]].concat().into());
        Ok((page, next))
    }

    fn line(&self) -> causeway_namespace_core::lineage::Lineage {
        Default::default()
    }

    fn keeps(&self, seq: Seq) -> bool {
        seq >= self.oldest
    }

    fn changed_inodes(&self, after: Seq) -> Result<Option<BTreeSet<Ino>>, ReadError> {
        let mut inodes = BTreeSet::new();
        match self.source.changes(after, self.seq()) {
            Ok(changes) => Ok(add_inodes(&mut inodes, changes.map(Result::unwrap)).then_some(inodes)),
            Err(_) => Ok(None),
        }
    }
}

#[derive(Debug)]
struct TestRoots {
    source: Arc<dyn VolumeSource>,
    replaced: Mutex<Option<Arc<dyn VolumeView>>>,
    oldest: Mutex<Seq>,
    realm: Mutex<&'static str>,
    trouble: Mutex<Option<&'static str>>,
    /// Listings end without a last page after so many.
    cut: Mutex<Option<usize>>,
    /// Another number than before: the replica was wrong. Rises with the next listing if told so.
    generation: Mutex<u64>,
    turns_out_wrong: Mutex<bool>,
    /// This site only caches the volume.
    cached: Mutex<bool>,
    /// And its home has everything.
    held_elsewhere: Mutex<bool>,
    /// From where listings were asked for.
    asked: Mutex<Vec<Option<Listed>>>,
}

impl TestRoots {
    fn versions(&self) -> Arc<dyn VolumeView> {
        let replaced = self.replaced.lock().unwrap().clone();
        let (newest, source) = (self.source.view().unwrap(), self.source.clone());
        Arc::new(Versions { newest, source, replaced, oldest: *self.oldest.lock().unwrap() })
    }

    fn check(&self, what: &'static str) -> Result<(), RootsError> {
        match *self.trouble.lock().unwrap() {
            Some(trouble) if trouble == what => {
                Err(RootsError { what: what.to_owned(), reason: "no leader is in reach".to_owned() })
            }
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Roots for TestRoots {
    async fn volumes(&self, _: Duration) -> Result<Vec<RootVolume>, RootsError> {
        self.check("the table of volumes")?;
        let realm = (*self.realm.lock().unwrap()).to_owned();
        let follows = !*self.cached.lock().unwrap();
        Ok(vec![RootVolume { id: VOLUME, name: "data".to_owned(), realm, follows, evictable: !follows }])
    }

    async fn is_held_elsewhere(&self, volume: VolumeId, _: Duration) -> bool {
        assert_eq!(volume, VOLUME);
        *self.held_elsewhere.lock().unwrap()
    }

    fn generation(&self, _: VolumeId) -> u64 {
        *self.generation.lock().unwrap()
    }

    async fn manifests(&self, volume: VolumeId, since: Option<Listed>, _: Duration) -> Result<Pages, RootsError> {
        assert_eq!(volume, VOLUME);
        *self.generation.lock().unwrap() += u64::from(*self.turns_out_wrong.lock().unwrap());
        self.check("the newest state")?;
        self.asked.lock().unwrap().push(since);
        let mut whole = list(self.versions(), since);
        let Some(most) = *self.cut.lock().unwrap() else { return Ok(whole) };
        // A listing that is cut off after some pages, as by a node that dies.
        let (pages, listing) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            for _ in 0..most {
                let page = whole.recv().await.unwrap();
                assert!(!page.as_ref().unwrap().end, "it is to be cut off before its end");
                if pages.send(page).await.is_err() {
                    return;
                }
            }
        });
        Ok(listing)
    }

    async fn view(&self, volume: VolumeId, _: Duration) -> Result<Option<Arc<dyn VolumeView>>, RootsError> {
        assert_eq!(volume, VOLUME);
        self.check("the newest state")?;
        Ok(Some(self.versions()))
    }
}

struct World {
    volume: Arc<Volume>,
    node: Node,
    roots: Arc<TestRoots>,
    keeper: Arc<Keeper>,
    _home: Home,
}

fn world() -> World {
    world_with(KeeperOptions { grace: Duration::ZERO, ..KeeperOptions::default() })
}

fn world_with(options: KeeperOptions) -> World {
    let (trust, book, home) = (Trust::new(), Arc::<Book>::default(), Home::new());
    let volume = Volume::new("zurich", &[]);
    *book.volume.lock().unwrap() = Some(volume.clone());
    let node = Node::start(&trust, &book, &home, "zurich", 1, None);
    let roots = Arc::new(TestRoots {
        source: volume.seen_by(&node),
        replaced: Mutex::default(),
        oldest: Mutex::new(Seq(0)),
        generation: Mutex::default(),
        turns_out_wrong: Mutex::default(),
        cached: Mutex::default(),
        held_elsewhere: Mutex::default(),
        realm: Mutex::new("default"),
        trouble: Mutex::default(),
        cut: Mutex::default(),
        asked: Mutex::default(),
    });
    let parts = KeeperParts {
        store: node.store.clone(),
        replicator: node.replicator.clone(),
        realms: Arc::new(OneRealm),
        roots: roots.clone(),
        clock: Arc::new(SystemClock),
    };
    let keeper = Keeper::new(parts, options);
    World { volume, node, roots, keeper, _home: home }
}

impl World {
    /// Another keeper of the same store, as after a restart of the node.
    fn another_keeper(&mut self) {
        let parts = KeeperParts {
            store: self.node.store.clone(),
            replicator: self.node.replicator.clone(),
            realms: Arc::new(OneRealm),
            roots: self.roots.clone(),
            clock: Arc::new(SystemClock),
        };
        self.keeper = Keeper::new(parts, KeeperOptions { grace: Duration::ZERO, ..KeeperOptions::default() });
    }
}

impl World {
    async fn gc(&self) -> Result<GcReport, String> {
        let ask = GcAsk { full_speed: true, ..GcAsk::default() };
        match self.keeper.gc(None, ask, PATIENCE).await.1 {
            Outcome::Done(report) => Ok(report),
            Outcome::Failed(why) => Err(why),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_files_and_kept_versions_name_stays() {
    let world = world();
    // Large enough that manifests have nodes of their own.
    let (kept, old, gone) = (noise(1, 9 << 20), noise(2, 9 << 20), noise(3, 30 << 20));
    world.volume.mutate(vec![put("kept", world.node.write(&kept)), put("old", world.node.write(&old))]);
    let before = world.node.chunk_ids();
    *world.roots.replaced.lock().unwrap() = Some(Arc::from(world.roots.source.view().unwrap()));
    world
        .volume
        .mutate(vec![put("old", world.node.write(b"another content, a longer one than fits inline, as it were"))]);
    world.node.write(&gone); // never committed
    let first = world.gc().await.unwrap();
    assert!(first.condemned > 400 && first.removed == 0, "{first:?}");
    let second = world.gc().await.unwrap();
    assert_eq!(second.removed, first.condemned, "{second:?}");
    assert!(second.packs >= 1 && second.freed_bytes > 30 << 20, "{second:?}");
    let left = world.node.chunk_ids();
    assert!(before.is_subset(&left), "chunks of kept versions are gone");
    assert!(left.len() < before.len() + 3);

    // When the version is not kept any more, its chunks go.
    *world.roots.replaced.lock().unwrap() = None;
    world.gc().await.unwrap();
    let third = world.gc().await.unwrap();
    assert!(third.removed > 400, "{third:?}");
    let status = world.keeper.status();
    assert_eq!((status.gc_last.unwrap().1.epoch, status.gc_error, status.condemned), (4, None, 0));
    world.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_collected_on_incomplete_knowledge() {
    let world = world();
    world.volume.mutate(vec![put("kept", world.node.write(&noise(1, 3 << 20)))]);
    world.node.write(&noise(2, 3 << 20));
    let all = world.node.chunk_ids();
    for trouble in ["the table of volumes", "the newest state"] {
        *world.roots.trouble.lock().unwrap() = Some(trouble);
        let why = world.gc().await.unwrap_err();
        assert!(why.contains(trouble) && why.contains("no leader is in reach"), "{why}");
        assert!(world.keeper.status().gc_error.unwrap().contains(trouble));
    }
    *world.roots.trouble.lock().unwrap() = None;
    *world.roots.realm.lock().unwrap() = "unheard-of";
    let why = world.gc().await.unwrap_err();
    assert!(why.contains("unheard-of") && why.contains("data"), "{why}");
    *world.roots.realm.lock().unwrap() = "default";

    // A snapshot of a state that is not kept here.
    let seq = world.volume.snapshot("before");
    *world.roots.oldest.lock().unwrap() = Seq(seq.get() + 1);
    let why = world.gc().await.unwrap_err();
    assert!(why.contains("\"before\"") && why.contains(&seq.to_string()), "{why}");
    *world.roots.oldest.lock().unwrap() = seq;

    assert_eq!((world.node.store.condemned(), world.node.chunk_ids()), (0, all), "nothing was even condemned");
    assert!(world.gc().await.unwrap().condemned > 100);
    assert_eq!(world.keeper.status().gc_error, None);
    world.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_mark_goes_on_with_what_changed_since() {
    let mut world = world();
    // More inodes than two pages hold; the contents of most do not matter.
    let (first, last, filler) = (noise(1, 200_000), noise(2, 300_000), world.node.write(&noise(3, 6_000)));
    world
        .volume
        .mutate(vec![put("first", world.node.write(&first)), put("second", world.node.write(&noise(4, 100_000)))]);
    for from in (0..2_600).step_by(200) {
        world.volume.mutate((from..from + 200).map(|number| put(&format!("f{number}"), filler.clone())).collect());
    }
    world.volume.mutate(vec![put("last", world.node.write(&last))]);
    let named = world.node.chunk_ids();
    world.node.write(&noise(5, 400_000)); // never committed
    let garbage = world.node.chunk_ids().len() - named.len();
    assert!(garbage > 10);

    *world.roots.cut.lock().unwrap() = Some(2);
    let why = world.gc().await.unwrap_err();
    assert!(why.contains("cut off"), "{why}");
    assert_eq!(world.node.store.condemned(), 0, "a list that is not whole condemns nothing");
    let seq = world.volume.seq();
    // Before the place where it was cut off: one file gets another content, one goes; after it one comes.
    let changed = world.node.write(&noise(6, 500_000));
    world.volume.mutate(vec![put("first", changed)]);
    world.volume.mutate(vec![put("new", world.node.write(&noise(7, 250_000)))]);
    world.another_keeper();
    *world.roots.cut.lock().unwrap() = None;
    let report = world.gc().await.unwrap();
    let asked = world.roots.asked.lock().unwrap().clone();
    assert_eq!((asked.len(), asked[0]), (2, None));
    let since = asked[1].unwrap();
    assert!(since.seq == seq && since.below > Ino(2_000) && since.below < Ino(2_300), "{since:?}");
    assert_eq!(report.condemned, garbage as u64, "what was not named by either state, and nothing else: {report:?}");

    // It is complete, so the next begins anew: the first content of `first` is garbage by now.
    let left: BTreeSet<_> = world.node.chunk_ids();
    let report = world.gc().await.unwrap();
    assert_eq!(world.roots.asked.lock().unwrap().last(), Some(&None));
    assert!(report.condemned > 5 && report.removed == garbage as u64, "{report:?}");
    world.gc().await.unwrap();
    let end = world.node.chunk_ids();
    assert!(end.len() < left.len() && named.intersection(&end).count() > 10);
    for (bytes, is_named) in [(&first, false), (&last, true), (&noise(6, 500_000), true), (&noise(7, 250_000), true)] {
        let here = !world.node.lacks_any_of(bytes);
        assert_eq!(here, is_named);
    }
    world.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_mark_begins_anew_when_changes_are_not_known_any_more() {
    let world = world();
    let filler = world.node.write(&noise(3, 6_000));
    for from in (0..2_600).step_by(200) {
        world.volume.mutate((from..from + 200).map(|number| put(&format!("f{number}"), filler.clone())).collect());
    }
    world.node.write(&noise(5, 400_000));
    *world.roots.cut.lock().unwrap() = Some(2);
    world.gc().await.unwrap_err();
    let changed = world.node.write(&noise(6, 500_000));
    world.volume.mutate(vec![put("f0", changed)]);
    world.volume.forget_changes();
    *world.roots.cut.lock().unwrap() = None;
    world.gc().await.unwrap();
    world.gc().await.unwrap();
    assert!(world.node.lacks_any_of(&noise(5, 400_000)) && !world.node.lacks_any_of(&noise(6, 500_000)));
    world.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_turns_out_to_be_wrong_is_read_anew() {
    let world = world();
    let filler = world.node.write(&noise(3, 6_000));
    for from in (0..2_600).step_by(200) {
        world.volume.mutate((from..from + 200).map(|number| put(&format!("f{number}"), filler.clone())).collect());
    }
    world.node.write(&noise(5, 400_000));
    *world.roots.turns_out_wrong.lock().unwrap() = true;
    let why = world.gc().await.unwrap_err();
    assert!(why.contains("turned out to be wrong"), "{why}");
    assert_eq!(world.node.store.condemned(), 0);
    *world.roots.turns_out_wrong.lock().unwrap() = false;

    // Nor is an interrupted mark gone on with that was made by it.
    *world.roots.cut.lock().unwrap() = Some(2);
    world.gc().await.unwrap_err();
    *world.roots.cut.lock().unwrap() = None;
    world.gc().await.unwrap();
    assert_eq!(world.roots.asked.lock().unwrap()[..], [None; 3]);
    assert!(world.node.store.condemned() > 10);
    world.node.stop().await;
}

/// The same content, told to have come from another site.
fn from_elsewhere(content: Content) -> Content {
    match content {
        Content::Manifest(manifest) => Content::Manifest(ManifestRef { origin: site("westeurope"), ..manifest }),
        other => other,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn above_its_capacity_a_cache_lets_copies_go_and_keeps_what_is_only_here() {
    const MIB: usize = 1 << 20;
    let capacity = 8 * MIB as u64;
    let options = KeeperOptions { grace: Duration::ZERO, capacity, ..KeeperOptions::default() };
    let world = world_with(options);
    *world.roots.cached.lock().unwrap() = true;
    let own = noise(1, 3 * MIB);
    let copies: Vec<Vec<u8>> = (10..14).map(|seed| noise(seed, 3 * MIB)).collect();
    let mut ops = vec![put("own", world.node.write(&own))];
    for (number, copy) in copies.iter().enumerate() {
        ops.push(put(&format!("copy-{number}"), from_elsewhere(world.node.write(copy))));
    }
    // A chunk of a copy that this site's own file has too.
    let shared = [&own[..], &copies[0][..]].concat();
    world.volume.mutate(ops);
    world.volume.mutate(vec![put("shared", world.node.write(&shared))]);
    let before = world.node.store.stats().stored_bytes;
    assert!(before > 14 * MIB as u64, "{before}");

    // A collection takes nothing of it: all of it is named.
    assert_eq!(world.gc().await.unwrap().condemned, 0);
    // Nor an eviction, as long as the home does not say that it has all: a copy may be the last one.
    assert!(!world.keeper.evict().await);
    assert!(copies.iter().all(|copy| !world.node.lacks_any_of(copy)));
    assert!(world.keeper.status().over_capacity > 0);
    *world.roots.held_elsewhere.lock().unwrap() = true;
    assert!(world.keeper.evict().await);
    let after = world.node.store.stats().stored_bytes;
    assert!(after <= capacity && after > 5 * MIB as u64, "{after} of {before}");
    assert!(!world.node.lacks_any_of(&own) && !world.node.lacks_any_of(&shared), "what is only here stays");
    assert!(copies[1..].iter().any(|copy| world.node.lacks_any_of(copy)));
    let status = world.keeper.status();
    assert_eq!((status.over_capacity, status.totals.evictions), (0, 2));
    assert!(world.keeper.evict().await && world.keeper.status().totals.evictions == 2, "it is within its capacity");
    assert_eq!(world.gc().await.unwrap().condemned, 0);

    // What is only here may be more than fits: it stays, and that is told.
    world.volume.mutate(vec![put("more", world.node.write(&noise(2, 9 * MIB)))]);
    world.keeper.evict().await;
    assert!(!world.node.lacks_any_of(&noise(2, 9 * MIB)) && !world.node.lacks_any_of(&shared));
    assert!(world.keeper.status().over_capacity > 5 * MIB as u64, "{:?}", world.keeper.status());
    world.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_named_by_its_files() {
    let world = world();
    let (small, lost) = (noise(1, 5_000), noise(2, 1 << 20));
    let seq = world.volume.mutate(vec![put("small", world.node.write(&small)), put("lost", world.node.write(&lost))]);
    world.node.attach(&world.volume);
    world.node.in_sync(seq).await;
    // The store loses what it has told to have: collected by the roots of another, empty volume.
    let parts = KeeperParts {
        store: world.node.store.clone(),
        replicator: world.node.replicator.clone(),
        realms: Arc::new(OneRealm),
        roots: world_with(KeeperOptions::default()).roots,
        clock: Arc::new(SystemClock),
    };
    let wrong = Keeper::new(parts, KeeperOptions { grace: Duration::ZERO, ..KeeperOptions::default() });
    for _ in 0..2 {
        let (_, outcome) = wrong.gc(None, GcAsk { full_speed: true, ..GcAsk::default() }, PATIENCE).await;
        assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
    }
    assert!(world.node.lacks_any_of(&lost));
    let (_, outcome) = world.keeper.scrub(None, ScrubAsk { read: true, deep: false }, PATIENCE).await;
    let Outcome::Done(report) = outcome else { panic!("{outcome:?}") };
    assert!(report.bad > 5 && report.healed == 0 && report.bad_packs == 0, "{report:?}");
    assert!(report.unchecked.is_empty(), "{report:?}");
    for chunk in &report.named {
        let file = if chunk.id == realm().chunk_id(&small) { "data:small" } else { "data:lost" };
        assert!(!chunk.corrupt && chunk.files == [file] && chunk.unhealed.is_some(), "{chunk:?}");
    }
    assert!(report.named.iter().any(|chunk| chunk.files == ["data:small"]), "{report:?}");
    assert_eq!(world.keeper.status().unhealed, report.bad, "the metrics tell it");
    // Someone has it again: it is healed.
    world.node.write(&small);
    world.node.write(&lost);
    let (_, outcome) = world.keeper.scrub(None, ScrubAsk { read: true, deep: false }, PATIENCE).await;
    let Outcome::Done(report) = outcome else { panic!("{outcome:?}") };
    assert_eq!((report.bad, world.keeper.status().unhealed), (0, 0), "{report:?}");
    world.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduled_collection_keeps_to_its_rate() {
    const RATE: u64 = 4 << 20;
    let world = world_with(KeeperOptions { grace: Duration::ZERO, rate: RATE, ..KeeperOptions::default() });
    // A pack of which a part is in use, so that it is rewritten.
    let kept = noise(1, 3 << 20);
    world.volume.mutate(vec![put("kept", world.node.write(&kept))]);
    world.node.write(&noise(2, 20 << 20));
    let mut slowest = Duration::ZERO;
    let mut moved = 0;
    for _ in 0..2 {
        let (_, outcome) = world.keeper.gc(None, GcAsk::default(), PATIENCE).await;
        let Outcome::Done(report) = outcome else { panic!("{outcome:?}") };
        moved += report.moved_bytes;
        slowest = slowest.max(report.took);
    }
    assert!(moved >= 3 << 20, "{moved}");
    // What was written, and it was read before.
    assert!(slowest >= Duration::from_secs_f64(moved as f64 / RATE as f64), "{moved} bytes in {slowest:?}");
    assert!(!world.node.lacks_any_of(&kept));
    world.node.stop().await;
}
