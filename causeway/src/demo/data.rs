//! The steps with the sites alive: import, replication, edits, reads at a cache, a leader that dies.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use causeway_base::VolumeId;
use causeway_namespace::Consistency;
use causeway_namespace_core::command::{Expect, Op};
use causeway_vfs::fetch::Range;
use causeway_vfs::{Located, Progress};

use super::edits::{self, Write};
use super::expected::{CompareSink, Expected, Want};
use super::report::{Percentiles, Step};
use super::{Demo, TARGET, VOLUME, site_names, tell};
use crate::cli::copy::ShownProgress;
use crate::cli::files::new_attr;
use crate::cli::volume::spec;

/// Files whose way from commit to "verified" elsewhere is timed.
const LATENCY_SAMPLES: usize = 40;
/// Files read at the cache.
const CACHE_FILES: usize = 25;
/// How long a write may be tried after the leader was killed.
const TAKEOVER: Duration = Duration::from_secs(60);

impl Demo {
    pub(super) async fn start(&mut self) -> anyhow::Result<()> {
        tell("starting three sites as separate processes: zurich (on-prem), westeurope and eastus (Azure)");
        let started = Instant::now();
        self.sites.start_all().await?;
        self.report.add(Step::new("start three sites", started.elapsed()));
        let [home, replica, cache] = site_names()?;
        let mut volume = spec(self.sites.config(), VOLUME, &home);
        volume.replicas = vec![home.clone(), replica];
        volume.caches = vec![cache];
        let started = Instant::now();
        self.sites.session(&home).await?.vfs.names().create_volume(volume).await?;
        self.report.add(
            Step::new("create a volume", started.elapsed())
                .note("home zurich, replica westeurope, cache eastus, three voters, archived"),
        );
        Ok(())
    }

    /// Places below the imported folder, by way of the home site.
    async fn target(&mut self) -> anyhow::Result<Located> {
        let [home, ..] = site_names()?;
        Ok(self.sites.session(&home).await?.vfs.locate(TARGET.as_bytes()).await?)
    }

    async fn volume(&mut self) -> anyhow::Result<VolumeId> {
        Ok(self.target().await?.volume.id)
    }

    pub(super) async fn import(&mut self) -> anyhow::Result<()> {
        tell(&format!("importing {} at zurich", self.input.display()));
        let [home, ..] = site_names()?;
        let target = self.target().await?;
        let input = self.input.clone();
        let session = self.sites.session(&home).await?;
        let progress = Arc::new(Progress::default());
        let shown = ShownProgress::start("import", progress.clone());
        let report = session.vfs.import(&input, &target, progress).await;
        shown.finish().await;
        let report = report?;
        let seconds = report.elapsed.as_secs_f64().max(1e-3);
        #[allow(clippy::cast_precision_loss)] // rates for people
        let note = format!(
            "{} files in {} folders, {:.0} files/s, {:.0} MB/s; unique {}, stored {}, in the metadata {}",
            report.files,
            report.directories,
            report.files as f64 / seconds,
            report.logical_bytes as f64 / 1e6 / seconds,
            causeway_base::ByteSize(report.new_bytes + report.inline_bytes),
            causeway_base::ByteSize(report.stored_bytes + report.inline_bytes),
            causeway_base::ByteSize(report.inline_bytes),
        );
        self.report.add(Step::new("import at zurich", report.elapsed).logical(report.logical_bytes).note(note));
        let left_out: Vec<Bytes> = report.left_out.iter().map(|item| item.path.clone()).collect();
        for item in &report.left_out {
            eprintln!("   left out: {}: {}", String::from_utf8_lossy(&item.path), item.reason);
        }
        let folder = self.input.clone();
        self.expected = tokio::task::spawn_blocking(move || Expected::of_folder(&folder, &left_out)).await??;
        Ok(())
    }

    pub(super) async fn replicate(&mut self) -> anyhow::Result<()> {
        tell("westeurope, a replica, receives everything");
        let [home, replica, _] = site_names()?;
        let volume = self.volume().await?;
        let started = Instant::now();
        let seq = self.sites.sync(&replica, &home, volume).await?;
        let took = started.elapsed();
        let wire = self.sites.received(&replica, &home).await?;
        let logical = self.expected.logical_bytes();
        self.report.add(
            Step::new("westeurope in sync (after the import)", took)
                .logical(logical)
                .whole_file(logical)
                .wire(wire)
                .note(format!("verified in sync up to seq {seq}")),
        );
        Ok(())
    }

    /// From the acknowledged commit of one small file to "verified" at the replica.
    pub(super) async fn latency(&mut self) -> anyhow::Result<()> {
        let [home, replica, _] = site_names()?;
        let target = self.target().await?;
        let mut samples = Vec::with_capacity(LATENCY_SAMPLES);
        for number in 0..LATENCY_SAMPLES {
            let source = self.overlay.join(format!("latency-{number}"));
            // Above the inline limit, so that a chunk crosses; and unlike any other.
            let content: Vec<u8> = format!("small file {number} of the demo\n").into_bytes().repeat(300);
            std::fs::write(&source, &content).context("write an edited file")?;
            let path = Bytes::from(format!("latency-of-the-demo/{number}"));
            let write = Write { path, source, size: content.len() as u64 };
            let seq = self.write_files(&home, &target, std::slice::from_ref(&write)).await?;
            let committed = Instant::now();
            let site = causeway_namespace::SyncTarget::Site(replica.clone());
            self.sites.wait(&home, target.volume.id, site, Some(seq)).await?;
            samples.push(committed.elapsed().as_secs_f64() * 1e3);
            edits::apply(&mut self.expected, &[write]);
        }
        self.expected.entries.insert(Bytes::from_static(b"latency-of-the-demo"), Want::Folder);
        self.report.commit_to_verified_millis = Percentiles::of(samples);
        Ok(())
    }

    /// Writes files through the session of a site; returns the seq that shows them all.
    async fn write_files(
        &mut self,
        site: &causeway_base::SiteName,
        target: &Located,
        writes: &[Write],
    ) -> anyhow::Result<causeway_base::Seq> {
        let session = self.sites.session(site).await?;
        let mut seq = causeway_base::Seq::ZERO;
        for write in writes {
            let place = target.join(&write.path);
            if let Some(slash) = place.path.iter().rposition(|byte| *byte == b'/') {
                let folder = causeway_namespace_core::command::At {
                    dir: causeway_base::Ino::ROOT,
                    path: place.path.slice(..slash),
                };
                let op = Op::Mkdir { at: folder, attr: new_attr(0o755), parents: true };
                session.vfs.mutate(&place, vec![op]).await?;
            }
            let report = session.vfs.import(&write.source, &place, Arc::default()).await?;
            anyhow::ensure!(report.left_out.is_empty(), "{}: {:?}", place.shown, report.left_out);
            seq = seq.max(report.seq);
        }
        Ok(seq)
    }

    pub(super) async fn edit(&mut self) -> anyhow::Result<()> {
        tell("editing the tree at zurich; what crosses to westeurope is measured");
        let overlay = self.overlay.clone();
        let expected = self.expected.clone();
        let (in_place, insertion) = tokio::task::spawn_blocking(move || {
            anyhow::Ok((edits::in_place(&expected, &overlay)?, edits::insertion(&expected, &overlay)?))
        })
        .await??;
        self.edited("16 bytes in place in each of some files", &in_place).await?;
        if let Some(insertion) = insertion {
            self.edited("1,000 bytes inserted into the largest file", &[insertion]).await?;
        }
        if let Some((from, to, bytes)) = edits::rename(&self.expected) {
            let name = format!("rename of a folder of {}", causeway_base::ByteSize(bytes));
            let target = self.target().await?;
            let op = Op::Rename { from: target.join(&from).at(), to: target.join(&to).at(), no_replace: true };
            let step = self.measured(&name, vec![op]).await?.whole_file(bytes);
            let no_data = step.data_wire_bytes.unwrap_or_default() < 64 << 10;
            let moved = self.expected.rename_folder(&from, &to);
            self.report.add(step.held(no_data).note(format!("{moved} entries moved; no chunk crossed")));
        }
        let deleted = edits::deletes(&self.expected);
        let target = self.target().await?;
        let ops = deleted.iter().map(|(path, _)| Op::Unlink { at: target.join(path).at(), expect: Expect::Any });
        let step = self.measured(&format!("deletion of {} files", deleted.len()), ops.collect()).await?;
        self.report.add(step.whole_file(0));
        for (path, _) in &deleted {
            self.expected.entries.remove(path);
        }
        let copies = edits::copies(&self.expected);
        self.edited("new copies of the largest files", &copies).await?;
        self.expected.entries.insert(Bytes::from_static(b"copies-of-the-demo"), Want::Folder);
        Ok(())
    }

    async fn edited(&mut self, name: &str, writes: &[Write]) -> anyhow::Result<()> {
        let [home, replica, _] = site_names()?;
        let target = self.target().await?;
        let before = self.sites.received(&replica, &home).await?;
        let started = Instant::now();
        self.write_files(&home, &target, writes).await?;
        self.sites.sync(&replica, &home, target.volume.id).await?;
        let took = started.elapsed();
        let wire = self.sites.received(&replica, &home).await?.since(before);
        let whole = writes.iter().map(|write| write.size).sum();
        edits::apply(&mut self.expected, writes);
        let step = Step::new(name, took).whole_file(whole).wire(wire);
        self.report.add(step.note(format!("{} files", writes.len())));
        Ok(())
    }

    async fn measured(&mut self, name: &str, ops: Vec<Op>) -> anyhow::Result<Step> {
        let [home, replica, _] = site_names()?;
        let target = self.target().await?;
        let before = self.sites.received(&replica, &home).await?;
        let started = Instant::now();
        if !ops.is_empty() {
            self.sites.session(&home).await?.vfs.mutate(&target, ops).await?;
        }
        self.sites.sync(&replica, &home, target.volume.id).await?;
        let took = started.elapsed();
        let wire = self.sites.received(&replica, &home).await?.since(before);
        Ok(Step::new(name, took).wire(wire))
    }

    pub(super) async fn cache(&mut self) -> anyhow::Result<()> {
        tell("eastus, a cache, lists the whole tree and reads some files");
        let [home, _, cache] = site_names()?;
        let target = self.target().await?;
        let before = self.sites.received(&cache, &home).await?;
        let started = Instant::now();
        let session = self.sites.session(&cache).await?;
        // Linearizable: it must see the edits made at zurich.
        let mut walk = session.vfs.names().walk(target.volume.id, target.at(), false, Consistency::Linearizable);
        let mut entries = 0;
        while let Some(batch) = walk.next().await? {
            entries += batch.map_err(|code| target.error(code))?.entries.len();
        }
        let took = started.elapsed();
        let wire = self.sites.received(&cache, &home).await?.since(before);
        let all = self.expected.entries.len();
        self.report.add(
            Step::new("eastus lists the whole tree", took)
                .wire(wire)
                .held(entries == all)
                .note(format!("{entries} entries of {all}")),
        );

        let mut chosen = Expected::default();
        let files: Vec<_> = self.expected.files().filter(|(_, _, size)| (8 << 10..8 << 20).contains(size)).collect();
        let step = files.len().div_ceil(CACHE_FILES).max(1);
        for (path, source, size) in files.into_iter().step_by(step) {
            chosen.entries.insert(path.clone(), Want::File { source: source.clone(), size });
        }
        for (name, first) in [("eastus reads some files", true), ("eastus reads them again", false)] {
            let before = self.sites.received(&cache, &home).await?;
            let started = Instant::now();
            let sink = self.read_at_cache(&target, &chosen).await?;
            let took = started.elapsed();
            let wire = self.sites.received(&cache, &home).await?.since(before);
            let whole = chosen.logical_bytes();
            let nothing_again = first || wire.data < 16 << 10;
            self.report.add(
                Step::new(name, took)
                    .logical(sink.bytes)
                    .whole_file(whole)
                    .wire(wire)
                    .held(sink.differences.is_empty() && sink.equal == chosen.entries.len() as u64 && nothing_again)
                    .note(format!("{} files, equal byte for byte", sink.equal)),
            );
            self.report.differences.extend(sink.differences);
        }
        Ok(())
    }

    async fn read_at_cache(&mut self, target: &Located, chosen: &Expected) -> anyhow::Result<CompareSink> {
        let [_, _, cache] = site_names()?;
        let session = self.sites.session(&cache).await?;
        let mut sink = CompareSink::new(chosen.clone());
        for path in chosen.entries.keys() {
            let place = target.join(path);
            let (ino, inode) = session.vfs.stat(&place, Consistency::Linearizable).await?.value;
            let entry = causeway_vfs::fetch::Entry { path: path.clone(), ino, inode };
            sink = session.vfs.fetch_file(&place, entry, Range::ALL, sink).await?;
        }
        Ok(sink.finish())
    }

    pub(super) async fn takeover(&mut self) -> anyhow::Result<()> {
        let [home, replica, _] = site_names()?;
        let volume = self.volume().await?;
        let target = self.target().await?;
        let node = self.sites.node_of(&home)?;
        let leader = self.sites.leader(&home, volume).await?;
        let led = leader.map_or_else(|| "none".into(), |node| node.to_string());
        tell(&format!("killing the node of zurich with SIGKILL (the volume's leader is node {led})"));
        self.note_memory();
        // Connected before the kill, so that what is timed is the takeover.
        self.sites.session(&replica).await?;
        let source = self.overlay.join("takeover");
        std::fs::write(&source, b"written while zurich is dead\n".repeat(1000)).context("write an edited file")?;
        let write =
            Write { path: Bytes::from_static(b"written-by-westeurope"), size: source.metadata()?.len(), source };
        let killed = Instant::now();
        self.sites.cluster.kill(node).await?;
        let written = self.write_files(&replica, &target, std::slice::from_ref(&write));
        tokio::time::timeout(TAKEOVER, written).await.context("no write was acknowledged after the leader died")??;
        let took = killed.elapsed();
        self.report.takeover_seconds = Some(took.as_secs_f64());
        edits::apply(&mut self.expected, &[write]);
        self.report.add(
            Step::new("a write through westeurope after the kill", took)
                .held(leader == Some(node))
                .note("acknowledged by the majority that is left"),
        );

        let started = Instant::now();
        self.sites.cluster.start([node]).await?;
        self.sites.disconnect();
        let seq = self.sites.sync(&home, &replica, volume).await?;
        let (equal_at, digest) = self.sites.equal(&replica, volume).await?;
        self.report.add(Step::new("zurich is back and caught up", started.elapsed()).note(format!(
            "in sync up to seq {seq}; digests equal at seq {equal_at}: {}",
            &digest[..12.min(digest.len())]
        )));
        Ok(())
    }

    pub(super) fn note_memory(&mut self) {
        let ids: Vec<_> = self.sites.config().nodes().map(|node| node.node_id()).collect();
        let peak = ids.into_iter().filter_map(|id| self.sites.cluster.peak_memory_bytes(id)).max();
        self.report.peak_node_memory_bytes = self.report.peak_node_memory_bytes.max(peak.unwrap_or_default());
    }
}
