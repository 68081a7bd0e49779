//! Reads and writes from every node.

use bytes::Bytes;
use causeway_base::{RetryClass, Seq, VolumeId};
use causeway_namespace::client::{ClientError, ListPage};
use causeway_namespace::{Consistency, Freshness, Place};
use causeway_namespace_core::command::{Errno, Op};
use causeway_namespace_core::inode::{Body, Content, FileKind};

use crate::cluster::{Cluster, at, create, mkdir, put, spec, volume};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_reads_and_writes_the_one_tree() {
    let cluster = Cluster::start().await;
    let clients = [cluster.client(&[0]).await, cluster.client(&[1]).await, cluster.client(&[2]).await];
    let id = volume(&clients[0], "alpha").await.id;
    assert_eq!(clients[2].create_volume(spec("alpha")).await.unwrap().id, id, "creating it again changes nothing");

    let mut last = Seq::ZERO;
    for (writer, client) in clients.iter().enumerate() {
        let dir = format!("from-{writer}");
        let ops =
            vec![mkdir(&dir), put(format!("{dir}/a"), "one"), put(format!("{dir}/b\u{0}").replace('\u{0}', "é"), "")];
        client.mutate(id, ops).await.unwrap();
        let rename = Op::Rename { from: at(format!("{dir}/a")), to: at(format!("{dir}/moved")), no_replace: false };
        let renamed = client.mutate(id, vec![rename]).await.unwrap();
        last = renamed.seq;
        for (reader, client) in clients.iter().enumerate() {
            let read = client.stat(id, at(format!("{dir}/moved")), Consistency::Linearizable).await.unwrap();
            let found = read.value.unwrap();
            assert_eq!(found.inode.body, Body::File(Content::Inline("one".into())), "{reader} after {writer}");
            assert!(read.state.seq >= renamed.seq);
            assert_eq!(read.state.node.0, reader as u64 + 1);
            assert!(read.state.age.is_some());
            let gone = client.stat(id, at(format!("{dir}/a")), Consistency::Linearizable).await.unwrap();
            assert_eq!(gone.value, Err(Errno::NotFound));
        }
    }
    let own = Freshness::from(Consistency::Local).after(last);
    let read = clients[1].stat(id, at("from-2/moved"), own).await.unwrap();
    assert!(read.state.seq >= last && read.value.is_ok(), "read your writes at any node");
    cluster.assert_equal(id, last).await;

    let report = clients[2].volume("alpha", Consistency::Linearizable).await.unwrap();
    assert_eq!((report.totals.value.files, report.totals.value.directories), (6, 4));
    let status = clients[1].status().await.unwrap();
    assert_eq!(status.nodes.len(), 3);
    for node in &status.nodes {
        let status = node.status.as_ref().unwrap();
        assert!(status.group(id).is_some());
        assert!(status.wire.len() == 2 && status.wire.iter().all(|peer| peer.sent > 0 && peer.received > 0));
    }
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listings_and_walks_are_complete_and_ordered() {
    let cluster = Cluster::start().await;
    let client = cluster.client(&[1]).await;
    let id = volume(&client, "alpha").await.id;
    client.mutate(id, vec![mkdir("d"), mkdir("d/sub"), put("d/sub/x", "x")]).await.unwrap();
    let names: Vec<String> = (0..2500).map(|n| format!("d/f{n:05}")).collect();
    for some in names.chunks(500) {
        client.mutate(id, some.iter().map(create).collect()).await.unwrap();
    }

    let (mut after, mut listed) = (Bytes::new(), Vec::new());
    loop {
        let page = ListPage { after: after.clone(), limit: 700, plus: true };
        let page = client.list_page(id, at("d"), page, Consistency::Linearizable).await.unwrap().value.unwrap();
        assert!(page.entries.iter().all(|entry| entry.inode.is_some()));
        after = page.entries.last().unwrap().name.clone();
        listed.extend(page.entries.into_iter().map(|entry| entry.name));
        if !page.more {
            break;
        }
    }
    let mut expected: Vec<Bytes> = names.iter().map(|name| Bytes::from(name[2..].to_owned())).collect();
    expected.push("sub".into());
    assert_eq!(listed, expected);

    let mut walk = client.walk(id, at(""), false, Consistency::Linearizable);
    let (mut walked, mut seqs) = (Vec::new(), Vec::new());
    while let Some(batch) = walk.next().await.unwrap() {
        let batch = batch.unwrap();
        seqs.push(batch.state.seq);
        walked.extend(batch.entries.into_iter().map(|entry| String::from_utf8(entry.name.to_vec()).unwrap()));
    }
    let mut expected = vec![String::new(), "d".to_owned()];
    expected.extend(names.clone());
    expected.extend(["d/sub".to_owned(), "d/sub/x".to_owned()]);
    assert_eq!(walked, expected);
    seqs.dedup();
    assert_eq!(seqs.len(), 1, "one seq for the whole walk");

    let missing = client.walk(id, at("nope"), false, Consistency::Local).next().await.unwrap();
    assert_eq!(missing, Some(Err(Errno::NotFound)));
    let file = client.list_page(id, at("d/sub/x"), ListPage::default(), Consistency::Linearizable).await.unwrap();
    assert_eq!(file.value, Err(Errno::NotDirectory));
    let many = client.stat_many(id, vec![at("d"), at("nope"), at("d/sub/x")], Consistency::Linearizable).await.unwrap();
    let kinds: Vec<_> = many.value.into_iter().map(|found| found.map(|found| found.inode.kind())).collect();
    assert_eq!(kinds, [Ok(FileKind::Directory), Err(Errno::NotFound), Ok(FileKind::File)]);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mounts_lead_to_volumes_and_refusals_say_why() {
    let cluster = Cluster::start().await;
    let client = cluster.client(&[2]).await;
    let (alpha, beta) = (volume(&client, "alpha").await, volume(&client, "beta").await);

    let place = client.resolve(b"/projects/alpha/x/y").await.unwrap();
    assert_eq!(place, Place::InVolume { volume: Box::new(alpha.clone()), path: "x/y".into() });
    let above = client.resolve(b"/projects").await.unwrap();
    assert_eq!(above, Place::Above { names: vec!["alpha".into(), "beta".into()] });
    assert_eq!(client.resolve(b"/nope").await.unwrap(), Place::Nowhere);

    client.mutate(alpha.id, vec![put("f", "1")]).await.unwrap();
    let refused = client.mutate(alpha.id, vec![put("g", "2"), create("f")]).await.unwrap_err();
    let refusal = refused.refusal().unwrap();
    assert_eq!((refusal.op, refusal.code), (1, Errno::Exists));
    let read = client.stat(alpha.id, at("g"), Consistency::Linearizable).await.unwrap();
    assert_eq!(read.value, Err(Errno::NotFound), "nothing of a refused batch is applied");

    let across = client.rename(b"/projects/alpha/f", b"/projects/beta/f", false).await.unwrap_err();
    assert!(matches!(across, ClientError::CrossVolume { .. }), "{across}");
    client.rename(b"/projects/alpha/f", b"/projects/alpha/h", false).await.unwrap();
    assert!(client.stat(alpha.id, at("h"), Consistency::Linearizable).await.unwrap().value.is_ok());

    let mut other = spec("beta");
    other.inline_bytes_max = 1;
    let taken = client.create_volume(other).await.unwrap_err();
    assert_eq!(taken.retry_class(), RetryClass::Refused);
    assert!(taken.to_string().contains("beta"), "{taken}");
    let unknown = client.stat(causeway_base::VolumeId(99), at(""), Consistency::Local).await.unwrap_err();
    assert!(matches!(&unknown, ClientError::Rejected { reason, .. } if reason == "no-volume"), "{unknown}");
    let none = client.volume("gamma", Consistency::Linearizable).await.unwrap_err();
    assert!(matches!(&none, ClientError::Rejected { reason, .. } if reason == "no-volume"), "{none}");
    assert_eq!(client.realm_key("default").await.unwrap().0, [7; 32]);
    assert_eq!(client.volumes().await.unwrap(), [alpha, beta]);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_callers_of_one_client_ask_at_the_same_time_is_answered_one_by_one() {
    let cluster = Cluster::start().await;
    let client = cluster.client(&[1]).await;
    let (one, other) = (volume(&client, "alpha").await.id, volume(&client, "beta").await.id);
    client.mutate(one, vec![create("taken")]).await.unwrap();
    // Files of two volumes, a name that is taken, and a volume that is not there, all at once.
    let batches = (0..60_u64).map(|n| {
        let client = &client;
        async move {
            match n % 4 {
                0 => client.mutate(one, vec![create(format!("file-{n}"))]).await,
                1 => client.mutate(other, vec![create(format!("file-{n}"))]).await,
                2 => client.mutate(one, vec![create("taken")]).await,
                _ => client.mutate(VolumeId(999), vec![create("x")]).await,
            }
        }
    });
    for (n, outcome) in (0..60_u64).zip(futures::future::join_all(batches).await) {
        match (n % 4, outcome) {
            (0 | 1, Ok(done)) => assert_eq!(done.done.len(), 1),
            (2, Err(ClientError::Refused { refusal, .. })) => assert_eq!(refusal.code, Errno::Exists),
            (3, Err(ClientError::Rejected { reason, .. })) => assert_eq!(reason, "no-volume"),
            (_, outcome) => panic!("{n}: {outcome:?}"),
        }
    }
    let stats = (0..60_u64).map(|n| {
        let client = &client;
        async move {
            let id = [one, other][usize::from(n % 4 == 1)];
            let consistency =
                if n < 30 { Consistency::Linearizable } else { Consistency::Bounded(std::time::Duration::ZERO) };
            (n, client.stat(id, at(format!("file-{n}")), consistency).await.unwrap().value)
        }
    });
    for (n, found) in futures::future::join_all(stats).await {
        match n % 4 {
            0 | 1 => assert_eq!(found.unwrap().inode.body, Body::File(Content::Inline(Bytes::new())), "file-{n}"),
            _ => assert_eq!(found, Err(Errno::NotFound), "file-{n}"),
        }
    }
    cluster.stop_all().await;
}
