//! `causeway topology`

use std::collections::BTreeMap;
use std::fmt::Write as _;

use causeway_namespace::{Consistency, placement};
use causeway_namespace_core::root::{NodeRecord, NodeState, TopologyRecord};
use causeway_topology::TopologySpec;
use serde::Serialize;

use super::args::{Global, TopologyCommand};
use super::exit::{Exit, Failure};
use super::moves::{Move, moves, shown};
use super::session::Session;
use crate::config::topology;
use crate::output;

pub(super) async fn run(global: &Global, command: TopologyCommand) -> anyhow::Result<Exit> {
    match command {
        TopologyCommand::Show => show(global).await,
        TopologyCommand::Plan { file } => {
            let wanted = topology::load(&file)?;
            let session = Session::connect(global).await?;
            let plan = plan(&session, wanted).await?;
            let holds = plan.refused.is_empty();
            output::print(global.output, &plan, Plan::shown)?;
            Ok(if holds { Exit::Done } else { Exit::Refused })
        }
        TopologyCommand::Apply { file, version, even_if_unplaceable } => {
            let wanted = topology::load(&file)?;
            let session = Session::connect(global).await?;
            let plan = plan(&session, wanted.clone()).await?;
            if !plan.refused.is_empty() && !even_if_unplaceable {
                let message = format!(
                    "with this topology some volumes cannot hold what they should survive:\n  {}\n  hint: change the \
                     volumes first, or --even-if-unplaceable: they then stay where they are",
                    plan.refused.join("\n  ")
                );
                return Err(Failure::error(Exit::Refused, message));
            }
            let version = session.vfs.names().apply_topology(version, wanted).await?;
            output::print(global.output, &version, |version| {
                format!("the topology is at version {version} now; volumes move to where it wants them")
            })?;
            Ok(Exit::Done)
        }
    }
}

async fn show(global: &Global) -> anyhow::Result<Exit> {
    #[derive(Serialize)]
    struct Shown {
        version: u64,
        topology: TopologySpec,
        nodes: Vec<Node>,
    }
    #[derive(Serialize)]
    struct Node {
        id: u64,
        site: String,
        role: &'static str,
        state: &'static str,
        grpc: String,
        quic: String,
    }
    let session = Session::connect(global).await?;
    let (record, nodes) = session.vfs.names().topology().await?;
    let node = |node: NodeRecord| Node {
        id: node.id.get(),
        site: node.site.to_string(),
        role: if node.witness { "witness" } else { "full" },
        state: state(node.state),
        grpc: node.grpc,
        quic: node.quic,
    };
    let nodes = nodes.into_iter().map(node).collect();
    let shown = Shown { version: record.version, topology: record.spec, nodes };
    let mut comments = vec![format!("version {}: `causeway topology apply FILE --version {0}`", shown.version)];
    comments.extend(shown.nodes.iter().map(|node| {
        format!("node {} at {} ({}, {}): {} {}", node.id, node.site, node.role, node.state, node.grpc, node.quic)
    }));
    let text = topology::text(&shown.topology, &comments)?;
    output::print(global.output, &shown, |_| text)?;
    Ok(Exit::Done)
}

pub(super) fn state(state: NodeState) -> &'static str {
    match state {
        NodeState::Active => "active",
        NodeState::Joining => "joining",
        NodeState::Draining => "draining",
    }
}

/// What a topology would change.
#[derive(Debug, Serialize)]
struct Plan {
    version: u64,
    differences: Vec<String>,
    placements: Vec<String>,
    refused: Vec<String>,
    moves: Vec<Move>,
}

impl Plan {
    fn shown(&self) -> String {
        let mut text = format!("against version {}\n", self.version);
        let mut list = |title: &str, none: &str, lines: &[String]| {
            let _ = writeln!(text, "\n{title}");
            if lines.is_empty() {
                let _ = writeln!(text, "  {none}");
            }
            for line in lines {
                let _ = writeln!(text, "  {line}");
            }
        };
        list("declared", "no difference", &self.differences);
        list("placed", "every volume stays where it is", &self.placements);
        if !self.refused.is_empty() {
            list("cannot be held", "", &self.refused);
        }
        let _ = write!(text, "\n{}", shown(&self.moves));
        text
    }
}

async fn plan(session: &Session, wanted: TopologySpec) -> anyhow::Result<Plan> {
    let names = session.vfs.names();
    let (current, nodes) = names.topology().await?;
    let differences = differences(&current.spec, &wanted)?;
    let wanted = TopologyRecord { version: current.version, spec: wanted };
    let planned = placement::topology(&wanted, &nodes);
    let planned = planned.map_err(|error| Failure::error(Exit::Refused, error.to_string()))?;
    let mut plan =
        Plan { version: current.version, differences, placements: Vec::new(), refused: Vec::new(), moves: Vec::new() };
    for volume in names.volumes().await? {
        let Some(survive) = volume.spec.survive else { continue };
        match placement::plan(&planned, &volume.spec, survive) {
            Ok(found) => {
                let after = placement::placed(&volume.spec, &found);
                if (&after.voters, &after.learners) == (&volume.spec.voters, &volume.spec.learners) {
                    continue;
                }
                plan.placements.push(format!(
                    "volume {}: voters {} -> {}, learners {} -> {}; a commit waits {:?}, {:?} after a failure",
                    after.name,
                    ids(&volume.spec.voters),
                    ids(&after.voters),
                    ids(&volume.spec.learners),
                    ids(&after.learners),
                    found.commit_latency,
                    found.commit_latency_degraded
                ));
                let totals = names.volume(&after.name, Consistency::Local).await?.totals.value;
                plan.moves.extend(moves(&planned, &nodes, &volume.spec, &after, &totals));
            }
            Err(error) => plan.refused.push(error.to_string()),
        }
    }
    Ok(plan)
}

pub(super) fn ids(list: &[causeway_base::NodeId]) -> String {
    if list.is_empty() {
        return "none".to_owned();
    }
    list.iter().map(|id| id.get().to_string()).collect::<Vec<_>>().join(",")
}

/// One line for each item that comes, goes or changes.
fn differences(before: &TopologySpec, after: &TopologySpec) -> anyhow::Result<Vec<String>> {
    fn items<T: Serialize>(
        kind: &str,
        items: &[T],
        name: impl Fn(&T) -> String,
    ) -> anyhow::Result<Vec<(String, toml::Table)>> {
        let item = |item: &T| Ok((format!("{kind} {}", name(item)), toml::Table::try_from(item)?));
        items.iter().map(item).collect()
    }
    let all = |spec: &TopologySpec| -> anyhow::Result<BTreeMap<String, toml::Table>> {
        let mut all = items("region", &spec.regions, |item| item.name.to_string())?;
        all.extend(items("site", &spec.sites, |item| item.name.to_string())?);
        all.extend(items("link", &spec.links, |item| item.name.to_string())?);
        all.extend(items("repository", &spec.repositories, |item| item.name.clone())?);
        Ok(all.into_iter().collect())
    };
    let (before, after) = (all(before)?, all(after)?);
    let mut lines: Vec<String> =
        before.keys().filter(|name| !after.contains_key(*name)).map(|name| format!("- {name}")).collect();
    for (name, item) in &after {
        let Some(old) = before.get(name) else {
            lines.push(format!("+ {name}"));
            continue;
        };
        for (key, value) in item {
            if old.get(key) != Some(value) {
                let old = old.get(key).map_or_else(|| "nothing".to_owned(), ToString::to_string);
                lines.push(format!("~ {name}: {key} {old} -> {value}"));
            }
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_name_what_comes_goes_and_changes() {
        let site = |name: &str| (name.parse().unwrap(), format!("{name}-region"), "azure".to_owned());
        let before = topology::starter(&[site("zurich"), site("eastus")]);
        let mut after = topology::starter(&[site("zurich"), site("eastus"), site("paris")]);
        after.links.retain(|link| link.name.as_str() != "eastus-paris");
        after.links[0].priority = 3;
        let lines = differences(&before, &after).unwrap();
        let expected =
            ["~ link zurich-eastus: priority 0 -> 3", "+ link zurich-paris", "+ region paris-region", "+ site paris"];
        assert_eq!(lines, expected);
        assert_eq!(differences(&after, &before).unwrap().iter().filter(|line| line.starts_with('-')).count(), 3);
        assert!(differences(&after, &after).unwrap().is_empty());
    }
}
