//! An object store that fails on purpose, for tests and simulations: stricter and meaner than the real ones.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Chances of each fault, from 0 to 1, for each request.
#[derive(Clone, Copy, Debug, Default)]
pub struct FaultPlan {
    /// The request is refused with a server error (5xx, 429) and does nothing.
    pub refused: f64,
    /// It is done, and the reply is an error.
    pub reply_lost: f64,
    /// A put is answered with an error and done later, before some other request.
    pub late: f64,
    /// It is never answered and does nothing.
    pub hangs: f64,
    /// It is done and never answered.
    pub done_and_hangs: f64,
    /// A get's body ends early.
    pub cut: f64,
    /// A listing does not show what was put lately.
    pub stale: f64,
}

impl FaultPlan {
    /// Each fault with the same chance.
    #[must_use]
    pub const fn all(chance: f64) -> Self {
        Self {
            refused: chance,
            reply_lost: chance,
            late: chance,
            hangs: chance,
            done_and_hangs: chance,
            cut: chance,
            stale: chance,
        }
    }
}

/// Wraps a store; clones share the faults.
#[derive(Clone)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    state: Arc<Mutex<State>>,
}

struct State {
    rng: StdRng,
    plan: FaultPlan,
    recent: VecDeque<Path>,
    late: Vec<(Path, PutPayload, PutOptions)>,
    requests: u64,
    dead_after: Option<u64>,
}

/// Puts that a stale listing may not show.
const RECENT_MAX: usize = 4;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    Refused,
    ReplyLost,
    Late,
    Hangs,
    DoneAndHangs,
}

impl FaultyStore {
    /// `seed` decides everything but the timing.
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>, plan: FaultPlan, seed: u64) -> Self {
        let rng = StdRng::seed_from_u64(seed);
        let state = State { rng, plan, recent: VecDeque::new(), late: Vec::new(), requests: 0, dead_after: None };
        Self { inner, state: Arc::new(Mutex::new(state)) }
    }

    /// Changes the chances from now on.
    pub fn set_plan(&self, plan: FaultPlan) {
        self.lock().plan = plan;
    }

    /// From the `requests`-th request from now on all are refused, as if the process had died there.
    pub fn die_after(&self, requests: u64) {
        let mut state = self.lock();
        state.dead_after = Some(state.requests + requests);
    }

    /// Ends [`FaultyStore::die_after`].
    pub fn revive(&self) {
        self.lock().dead_after = None;
    }

    /// Requests seen.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.lock().requests
    }

    /// Does all puts that were put off.
    pub async fn settle(&self) {
        loop {
            let Some((path, payload, options)) = self.lock().late.pop() else { break };
            // Its outcome goes to nobody, as with the real thing.
            let _ = self.inner.put_opts(&path, payload, options).await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn draw(&self, is_put: bool) -> Fault {
        let mut state = self.lock();
        state.requests += 1;
        if state.dead_after.is_some_and(|dead_after| state.requests > dead_after) {
            return Fault::Refused;
        }
        let plan = state.plan;
        let late = if is_put { plan.late } else { 0.0 };
        let chances = [
            (plan.refused, Fault::Refused),
            (plan.reply_lost, Fault::ReplyLost),
            (late, Fault::Late),
            (plan.hangs, Fault::Hangs),
            (plan.done_and_hangs, Fault::DoneAndHangs),
        ];
        let mut at: f64 = state.rng.random();
        for (chance, fault) in chances {
            if at < chance {
                return fault;
            }
            at -= chance;
        }
        Fault::None
    }

    fn hit(&self, chance: impl Fn(&FaultPlan) -> f64) -> bool {
        let mut state = self.lock();
        let chance = chance(&state.plan);
        state.rng.random::<f64>() < chance
    }

    async fn settle_some(&self) {
        if self.hit(|_| 0.3) {
            self.settle().await;
        }
    }

    /// Runs `request` with a fault around it.
    async fn run<T, F: Future<Output = Result<T>>>(&self, request: F) -> Result<T> {
        self.settle_some().await;
        match self.draw(false) {
            Fault::Refused | Fault::Late => Err(failure()),
            Fault::ReplyLost => {
                let _ = request.await;
                Err(failure())
            }
            Fault::Hangs => std::future::pending().await,
            Fault::DoneAndHangs => {
                let _ = request.await;
                std::future::pending().await
            }
            Fault::None => request.await,
        }
    }

    fn hidden(&self) -> Vec<Path> {
        if self.hit(|plan| plan.stale) { self.lock().recent.iter().cloned().collect() } else { Vec::new() }
    }
}

fn failure() -> Error {
    Error::Generic { store: "faulty", source: "503 Service Unavailable, on purpose".into() }
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyStore({:?})", self.inner)
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyStore({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.settle_some().await;
        let fault = self.draw(true);
        match fault {
            Fault::Refused => return Err(failure()),
            Fault::Hangs => return std::future::pending().await,
            Fault::Late => {
                self.lock().late.push((path.clone(), payload, options));
                return Err(failure());
            }
            Fault::None | Fault::ReplyLost | Fault::DoneAndHangs => {}
        }
        let done = self.inner.put_opts(path, payload, options).await;
        {
            let mut state = self.lock();
            state.recent.push_back(path.clone());
            if state.recent.len() > RECENT_MAX {
                state.recent.pop_front();
            }
        }
        match fault {
            Fault::ReplyLost => Err(failure()),
            Fault::DoneAndHangs => std::future::pending().await,
            _ => done,
        }
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.run(self.inner.put_multipart_opts(path, options)).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let head = options.head;
        let result = self.run(self.inner.get_opts(path, options)).await?;
        if head || !self.hit(|plan| plan.cut) {
            return Ok(result);
        }
        let (meta, range, attributes, extensions) =
            (result.meta.clone(), result.range.clone(), result.attributes.clone(), result.extensions.clone());
        let bytes = result.bytes().await?;
        let cut = bytes.slice(..bytes.len() / 2);
        let payload = GetResultPayload::Stream(stream::once(async move { Ok::<Bytes, Error>(cut) }).boxed());
        Ok(GetResult { payload, meta, range, attributes, extensions })
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        paths
            .then(move |path| {
                let this = this.clone();
                async move {
                    let path = path?;
                    let mut deleted = this.inner.delete_stream(stream::once(async move { Ok(path) }).boxed());
                    this.run(async move { deleted.next().await.unwrap_or_else(|| Err(failure())) }).await
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let this = self.clone();
        let prefix = prefix.cloned();
        stream::once(async move {
            let objects: Vec<ObjectMeta> = this.run(this.inner.list(prefix.as_ref()).try_collect()).await?;
            let hidden = this.hidden();
            let shown = objects.into_iter().filter(move |meta| !hidden.contains(&meta.location));
            Ok::<_, Error>(stream::iter(shown.map(Ok)))
        })
        .try_flatten()
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.run(self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.run(self.inner.copy_opts(from, to, options)).await
    }
}
