//! The steps in which everything is lost and comes back.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use bytes::Bytes;
use causeway_namespace::SyncTarget;
use causeway_repository::archive::IndexMode;
use causeway_vfs::Progress;
use causeway_vfs::fetch::Range;

use super::expected::{CompareSink, Want};
use super::report::Step;
use super::sites::Sites;
use super::{Demo, TARGET, VOLUME, site_names, tell};
use crate::cli::args::RestoreArgs;
use crate::cli::copy::ShownProgress;
use crate::dr::{Image, restore};

/// Files read with no cluster alive.
const FILES_WITHOUT_CLUSTER: usize = 10;

impl Demo {
    /// How long after an acknowledged write the repository holds it: what a loss of everything could cost.
    pub(super) async fn archive(&mut self) -> anyhow::Result<()> {
        let [home, ..] = site_names()?;
        tell("waiting until the repository holds everything");
        let session = self.sites.session(&home).await?;
        let target = session.vfs.locate(TARGET.as_bytes()).await?;
        let started = Instant::now();
        let seq = self.sites.archived(&home, target.volume.id).await?;
        self.report.add(Step::new("repository holds every byte", started.elapsed()).note(format!("up to seq {seq}")));

        let source = self.overlay.join("last-write");
        std::fs::write(&source, b"the last write before everything was lost\n".repeat(500)).context("write a file")?;
        let session = self.sites.session(&home).await?;
        let place = target.join(b"last-write");
        let report = session.vfs.import(&source, &place, Arc::default()).await?;
        let committed = Instant::now();
        let size = source.metadata()?.len();
        self.sites.wait(&home, target.volume.id, SyncTarget::Archive, Some(report.seq)).await?;
        self.report.rpo_seconds = Some(committed.elapsed().as_secs_f64());
        self.expected.entries.insert(Bytes::from_static(b"last-write"), Want::File { source, size });
        self.report.add(
            Step::new("one more write reaches the repository", committed.elapsed())
                .note(format!("seq {}: what is lost with all sites is younger than this", report.seq)),
        );
        Ok(())
    }

    pub(super) async fn destroy(&mut self) -> anyhow::Result<()> {
        tell("destroying all three sites: processes, data, certificates, configuration");
        let started = Instant::now();
        self.note_memory();
        self.sites.disconnect();
        let nodes: Vec<_> = self.sites.config().nodes().map(|node| node.node_id()).collect();
        for node in nodes {
            self.sites.cluster.kill(node).await?;
        }
        let folder = self.sites.config().base.clone();
        std::fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
        self.report
            .add(Step::new("destroy all sites", started.elapsed()).note(format!("what is left: {}", self.repository)));
        Ok(())
    }

    pub(super) async fn read_without_cluster(&mut self) -> anyhow::Result<()> {
        tell("reading the repository with no cluster alive: dr status, dr ls, dr cat");
        let started = Instant::now();
        let image = Image::open(&self.repository).await?;
        let volumes = image.volumes().await?;
        let seen = volumes.iter().find(|image| image.volume == VOLUME);
        let held = seen.is_some_and(|image| image.damaged.is_none());
        let note = seen
            .map_or_else(String::new, |image| format!("{} at seq {}, {} files", image.volume, image.seq, image.files));
        self.report.add(Step::new("dr status", started.elapsed()).held(held).note(note));

        let started = Instant::now();
        let found = image.locate(TARGET.as_bytes()).await?;
        let listed = found.list(false).await?.len();
        let top = |path: &Bytes| !path.is_empty() && !path.contains(&b'/');
        let expected = self.expected.entries.keys().filter(|path| top(path)).count();
        let step = Step::new("dr ls of the top folder", started.elapsed()).held(listed == expected);
        self.report.add(step.note(format!("{listed} entries of {expected}")));

        let started = Instant::now();
        let contents = image.contents(&found.volume, IndexMode::Lazy).await?;
        let files: Vec<_> = self.expected.files().filter(|(_, _, size)| *size <= 4 << 20).collect();
        let (mut equal, mut bytes, mut read) = (0, 0, 0);
        for (path, source, size) in files.iter().step_by(files.len().div_ceil(FILES_WITHOUT_CLUSTER).max(1)) {
            let mut place = TARGET.as_bytes().to_vec();
            place.push(b'/');
            place.extend_from_slice(path);
            let inode = image.locate(&place).await?.stat().await?;
            let content = contents.read(&inode, 0, usize::try_from(*size)?).await?;
            read += 1;
            equal += u64::from(content == std::fs::read(source)?);
            bytes += content.len() as u64;
        }
        let step = Step::new("dr cat of some files", started.elapsed()).logical(bytes).held(equal == read);
        self.report.add(step.note(format!("{equal} of {read} equal byte for byte")));
        Ok(())
    }

    pub(super) async fn restore(&mut self) -> anyhow::Result<()> {
        tell("restoring a new cluster from the repository");
        let [home, ..] = site_names()?;
        let started = Instant::now();
        let args = RestoreArgs {
            dir: self.work.join("restored"),
            sites: Vec::new(),
            host: "127.0.0.1".into(),
            base_port: 0,
            certificate_life: std::time::Duration::from_secs(24 * 3600),
        };
        let restored = restore(&self.repository, args).await?;
        let records: u64 = restored.volumes.iter().map(|volume| volume.records).sum();
        #[allow(clippy::cast_precision_loss)] // a rate for people
        let rate = records as f64 / restored.seconds.max(1e-3);
        self.report.add(
            Step::new("dr restore writes a new cluster", started.elapsed())
                .note(format!("{records} records, {rate:.0} records/s, epoch {}", restored.epoch)),
        );
        self.sites = Sites::new(restored.load()?)?;
        self.sites.start_all().await?;

        // The first byte of a file, which the new sites have to fetch first.
        let session = self.sites.session(&home).await?;
        let target = session.vfs.locate(TARGET.as_bytes()).await?;
        if let Some((path, source, _)) = self.expected.files().find(|(_, _, size)| *size > 8 << 10) {
            let place = target.join(path);
            let (ino, inode) = session.vfs.stat(&place, causeway_namespace::Consistency::Linearizable).await?.value;
            let entry = causeway_vfs::fetch::Entry { path: path.clone(), ino, inode };
            let mut one = super::expected::Expected::default();
            one.entries.insert(path.clone(), Want::File { source: source.clone(), size: entry.inode.size() });
            let sink = session.vfs.fetch_file(&place, entry, Range::ALL, CompareSink::new(one)).await?.finish();
            self.report.rto_seconds = Some(started.elapsed().as_secs_f64());
            let step = Step::new("first file read from the new cluster", started.elapsed());
            self.report.add(step.held(sink.differences.is_empty()).note("since the restore began"));
        }

        tell("comparing every file of the new cluster with its source, byte for byte");
        let compared = Instant::now();
        let progress = Arc::new(Progress::default());
        let shown = ShownProgress::start("compare", progress.clone());
        let sink = CompareSink::new(self.expected.clone());
        let sink = session.vfs.fetch_tree(&target, sink, progress).await;
        shown.finish().await;
        let sink = sink?.finish();
        let files = self.expected.files().count() as u64;
        self.report.add(
            Step::new("every file compared", compared.elapsed())
                .logical(sink.bytes)
                .held(sink.differences.is_empty() && sink.equal == files)
                .note(format!("{} of {files} files equal byte for byte", sink.equal)),
        );
        self.report.differences.extend(sink.differences);
        self.note_memory();
        Ok(())
    }
}
