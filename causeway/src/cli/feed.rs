//! `causeway feed`

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use causeway_base::{RetryClass, Seq};
use causeway_namespace::Consistency;
use causeway_namespace::client::ClientError;
use causeway_namespace::manage::{FeedEvent, FeedPlace};
use causeway_namespace_core::root::VolumeRecord;
use serde::{Deserialize, Serialize};
use time::format_description::well_known::Rfc3339;

use super::args::{FeedArgs, Global};
use super::exit::{Exit, Failure};
use super::session::{Session, write_whole};
use super::snapshot::{Change, prefix, word};

/// First and longest pause before a webhook is tried again.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long one request to a webhook may take.
const POST_MAX: Duration = Duration::from_secs(30);

/// An event, as CloudEvents 1.0 has it.
#[derive(Debug, Serialize)]
struct CloudEvent {
    specversion: &'static str,
    id: String,
    source: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    time: String,
    datacontenttype: &'static str,
    data: Data,
}

#[derive(Debug, Serialize)]
struct Data {
    seq: u64,
    #[serde(flatten)]
    change: Change,
}

impl CloudEvent {
    fn new(cluster: &str, volume: &VolumeRecord, event: &FeedEvent) -> Self {
        let change = Change::new(&volume.spec.mount, &event.change);
        let time = time::OffsetDateTime::from_unix_timestamp_nanos(event.at.0.into());
        let time = time.ok().and_then(|time| time.format(&Rfc3339).ok());
        Self {
            specversion: "1.0",
            id: format!("{}-{}", event.seq.get(), event.index),
            source: format!("/causeway/{cluster}/{}", volume.spec.name),
            kind: format!("causeway.{}", word(event.change.kind)),
            subject: change.path.clone(),
            time: time.unwrap_or_else(|| "1970-01-01T00:00:00Z".to_owned()),
            datacontenttype: "application/json",
            data: Data { seq: event.seq.get(), change },
        }
    }
}

/// How far a feed has come, in a file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cursor {
    /// So that the cursor of one volume is not used for another.
    volume: u64,
    /// Everything up to this seq was handed out.
    after: u64,
    /// And so many events of the next one.
    skip: u64,
}

impl Cursor {
    fn load(file: &Path, volume: &VolumeRecord) -> anyhow::Result<Option<FeedPlace>> {
        let shown = file.display();
        let text = match std::fs::read(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::error(Exit::Usage, format!("cursor {shown}: {error}"))),
        };
        let cursor: Self = serde_json::from_slice(&text)
            .map_err(|error| Failure::error(Exit::Usage, format!("{shown} is no cursor of a feed: {error}")))?;
        if cursor.volume != volume.id.get() {
            let message = format!("{shown} is the cursor of volume id {}, not of {}", cursor.volume, volume.spec.name);
            return Err(Failure::error(Exit::Usage, message));
        }
        Ok(Some(FeedPlace { after: Seq(cursor.after), skip: cursor.skip }))
    }
}

pub(super) async fn run(global: &Global, args: FeedArgs) -> anyhow::Result<Exit> {
    let prefix = prefix(&args.prefix)?;
    let session = Session::connect(global).await?;
    let volume = session.volume(&args.volume).await?;
    let from = start(&session, &volume, &args).await?;
    let mut out = Out {
        cluster: session.config.cluster.id.to_string(),
        post: args.post.clone().map(|url| Post::new(url, args.give_up)).transpose()?,
        cursor: args.cursor.clone(),
        saved: None,
        volume,
    };
    // Begun at once, so that a run that is told nothing still remembers where it began.
    out.save(from)?;
    let mut feed = session.vfs.names().feed(out.volume.id, from, &prefix, args.follow);
    loop {
        let batch = match feed.next().await {
            Ok(Some(batch)) => batch,
            Ok(None) => return Ok(Exit::Done),
            Err(ClientError::FellOff { oldest, .. }) => return Err(fell_off(&args, feed.place(), oldest)),
            Err(error) if args.follow && error.retry_class() != RetryClass::Refused => {
                eprintln!("{error}; going on from seq {}", feed.place().after);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if !batch.events.is_empty() {
            out.events(&batch.events).await?;
        }
        out.save(feed.place())?;
    }
}

async fn start(session: &Session, volume: &VolumeRecord, args: &FeedArgs) -> anyhow::Result<FeedPlace> {
    let at = |after: Seq| FeedPlace { after, skip: 0 };
    match args.from.as_deref() {
        Some("oldest") => {
            let found = session.vfs.names().snapshots(volume.id, Consistency::Local).await?;
            Ok(at(found.value.oldest))
        }
        Some(seq) => {
            let bad = |_| Failure::error(Exit::Usage, format!("--from {seq:?}: a seq, or `oldest`"));
            Ok(at(Seq(seq.parse().map_err(bad)?)))
        }
        None => match args.cursor.as_deref().map(|file| Cursor::load(file, volume)).transpose()?.flatten() {
            Some(place) => Ok(place),
            None => Ok(at(session.vfs.seq(volume).await?)),
        },
    }
}

fn fell_off(args: &FeedArgs, place: FeedPlace, oldest: Seq) -> anyhow::Error {
    let message = format!(
        "the feed of {} fell off: changes after seq {} are wanted, the oldest that are kept come after seq {oldest}. What \
         happened between is lost to this reader: walk the volume, then go on with `--from SEQ` of what was walked. A \
         longer `causeway snapshot retention` keeps more",
        args.volume, place.after
    );
    Failure::error(Exit::Refused, message)
}

/// Where events go.
struct Out {
    cluster: String,
    volume: VolumeRecord,
    post: Option<Post>,
    cursor: Option<PathBuf>,
    saved: Option<FeedPlace>,
}

impl Out {
    async fn events(&self, events: &[FeedEvent]) -> anyhow::Result<()> {
        let events = events.iter().map(|event| CloudEvent::new(&self.cluster, &self.volume, event));
        if let Some(post) = &self.post {
            return post.send(&serde_json::to_vec(&events.collect::<Vec<_>>())?).await;
        }
        let mut stdout = std::io::stdout().lock();
        for event in events {
            serde_json::to_writer(&mut stdout, &event)?;
            stdout.write_all(b"\n")?;
        }
        stdout.flush()?;
        Ok(())
    }

    /// Only what was handed out is remembered: after a crash in between it is handed out again.
    fn save(&mut self, place: FeedPlace) -> anyhow::Result<()> {
        let Some(file) = self.cursor.as_deref().filter(|_| self.saved != Some(place)) else { return Ok(()) };
        let cursor = Cursor { volume: self.volume.id.get(), after: place.after.get(), skip: place.skip };
        write_whole(file, &serde_json::to_vec(&cursor)?)?;
        self.saved = Some(place);
        Ok(())
    }
}

/// A webhook.
struct Post {
    client: reqwest::Client,
    url: url::Url,
    give_up: Duration,
}

impl Post {
    fn new(url: url::Url, give_up: Duration) -> anyhow::Result<Self> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Failure::error(Exit::Usage, format!("--post {url}: http or https")));
        }
        let client = reqwest::Client::builder().timeout(POST_MAX).redirect(reqwest::redirect::Policy::none());
        Ok(Self { client: client.build()?, url, give_up })
    }

    async fn send(&self, body: &[u8]) -> anyhow::Result<()> {
        let started = Instant::now();
        let mut pause = PAUSE;
        loop {
            let request = self.client.post(self.url.clone());
            let request = request.header("content-type", "application/cloudevents-batch+json").body(body.to_vec());
            let why = match request.send().await {
                Ok(response) if response.status().is_success() => return Ok(()),
                Ok(response) => format!("it answered {}", response.status()),
                Err(error) => format!("{:#}", anyhow::Error::from(error.without_url())),
            };
            if started.elapsed() + pause > self.give_up {
                let waited = started.elapsed().as_secs_f64();
                let message =
                    format!("{} did not take events for {waited:.0} s: {why}; run it again to go on", self.url);
                return Err(Failure::error(Exit::Unavailable, message));
            }
            tracing::warn!(url = %self.url, why, "events were not taken, trying again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}
