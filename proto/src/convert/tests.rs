//! Round trips, bounds, and bytes that are no message.

use darter_types::{
    Algorithm, ChainState, ContentKind, Digest, HostId, OriginLocator, PieceLayout, PieceRun, TaskId,
};
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::limits::{
    HELD_MAX, PARENTS_MAX, RUNS_MAX, SCHEDULERS_MAX, SOURCES_MAX, STATES_MAX, TEXT_BYTES_MAX,
};
use crate::pb::scheduler::v1 as pb;
use crate::scheduler::*;

fn algorithm() -> impl Strategy<Value = Algorithm> {
    prop_oneof![Just(Algorithm::Sha256), Just(Algorithm::Sha512)]
}

fn digest() -> impl Strategy<Value = Digest> {
    (algorithm(), any::<[u8; 8]>()).prop_map(|(algorithm, seed)| Digest::of(algorithm, &seed))
}

fn task() -> impl Strategy<Value = TaskId> {
    prop_oneof![
        digest().prop_map(TaskId::from),
        "[a-z]{1,9}".prop_map(|url| TaskId::of_url(&url, "", "", "")),
    ]
}

fn host() -> impl Strategy<Value = HostId> {
    "[a-z0-9][a-z0-9._-]{0,20}".prop_map(|name| name.parse().unwrap())
}

fn address() -> impl Strategy<Value = String> {
    ("[a-z]{1,9}", 1u16..).prop_map(|(host, port)| format!("{host}:{port}"))
}

fn runs() -> impl Strategy<Value = Vec<PieceRun>> {
    let run = (0u32..1000, 1u32..1000).prop_map(|(first, count)| PieceRun { first, count });
    prop::collection::vec(run, 0..5)
}

fn length() -> impl Strategy<Value = u64> {
    0..=PieceLayout::LENGTH_MAX
}

fn origin() -> impl Strategy<Value = OriginLocator> {
    let kind = prop_oneof![Just(ContentKind::Blob), Just(ContentKind::Manifest)];
    (digest(), kind, "[a-z]{1,9}").prop_map(|(digest, kind, name)| OriginLocator {
        registry: format!("{name}.test:5000").parse().unwrap(),
        repository: format!("library/{name}").parse().unwrap(),
        kind,
        digest,
    })
}

/// A task and states of its algorithm.
fn states() -> impl Strategy<Value = (TaskId, Vec<ChainState>)> {
    (task(), prop::collection::vec(any::<[u8; 64]>(), 0..4)).prop_map(|(task, raw)| {
        let algorithm = words_algorithm(&task);
        let state =
            |bytes: &[u8; 64]| ChainState::from_bytes(algorithm, &bytes[..algorithm.digest_bytes()]).unwrap();
        (task, raw.iter().map(state).collect())
    })
}

fn words_algorithm(task: &TaskId) -> Algorithm {
    task.digest()
        .map_or(Algorithm::Sha256, |digest| digest.algorithm())
}

fn hello() -> impl Strategy<Value = Hello> {
    (
        any::<u32>(),
        host(),
        address(),
        prop_oneof![Just(""), Just("fra"), Just("fra|z1|r2")],
        prop_oneof![Just(Role::Peer), Just(Role::Seed)],
        prop::option::of(1u64..),
        "[a-z0-9. ]{0,20}",
    )
        .prop_map(
            |(wire_version, host, address, locality, role, upload, build)| Hello {
                wire_version,
                host,
                address,
                locality: locality.parse().unwrap(),
                role,
                upload_bytes_per_second_max: upload,
                build,
            },
        )
}

fn held() -> impl Strategy<Value = Held> {
    (task(), length(), runs(), prop::option::of(origin()), 0u32..1000).prop_map(
        |(task, length, runs, origin, states_known)| Held {
            task,
            length,
            runs,
            origin,
            states_known,
        },
    )
}

fn want() -> impl Strategy<Value = Want> {
    (
        task(),
        origin(),
        prop::option::of(length()),
        runs(),
        0u32..1000,
        any::<bool>(),
        prop_oneof![Just(Urgency::Background), Just(Urgency::Reader)],
        prop::option::of(1u64..),
        runs(),
        any::<bool>(),
    )
        .prop_map(
            |(task, origin, length, held, states_known, public, urgency, lease_epoch, first, on_demand)| {
                Want {
                    task,
                    origin,
                    length,
                    held,
                    states_known,
                    public,
                    urgency,
                    lease_epoch,
                    first,
                    on_demand,
                }
            },
        )
}

fn lease_ended() -> impl Strategy<Value = LeaseEnded> {
    let outcome = prop_oneof![
        Just(LeaseOutcome::Done),
        Just(LeaseOutcome::Refused),
        Just(LeaseOutcome::Absent),
        Just(LeaseOutcome::Failed),
        Just(LeaseOutcome::WrongContent),
        Just(LeaseOutcome::Changed),
    ];
    (task(), any::<u64>(), outcome, prop::option::of(100u16..600)).prop_map(
        |(task, epoch, outcome, status)| LeaseEnded {
            task,
            epoch,
            outcome,
            status,
        },
    )
}

fn failed() -> impl Strategy<Value = Failed> {
    let reason = prop_oneof![
        Just(FailureReason::Unreachable),
        Just(FailureReason::Silent),
        Just(FailureReason::WrongBytes),
        Just(FailureReason::Missing),
        Just(FailureReason::Refused),
    ];
    (task(), host(), reason, 0u32..1000).prop_map(|(task, parent, reason, piece)| Failed {
        task,
        parent,
        reason,
        piece,
    })
}

fn load() -> impl Strategy<Value = Load> {
    let cost = (host(), 0.0..1e9, any::<u32>()).prop_map(|(parent, nanos_per_byte, pieces)| PieceCost {
        parent,
        nanos_per_byte,
        pieces,
    });
    (
        any::<u64>(),
        any::<u32>(),
        any::<u32>(),
        any::<u64>(),
        prop::collection::vec(cost, 0..4),
    )
        .prop_map(|(rate, running, waiting, free, costs)| Load {
            upload_bytes_per_second: rate,
            uploads_running: running,
            uploads_waiting: waiting,
            store_free_bytes: free,
            costs,
        })
}

fn node_message() -> impl Strategy<Value = NodeMessage> {
    let links = (states(), any::<u64>(), length(), 0u32..1000, any::<bool>()).prop_map(
        |((task, states), epoch, length, first_border, proved)| Links {
            task,
            epoch,
            length,
            first_border,
            states,
            proved,
        },
    );
    let fed = prop::collection::vec((prop::option::of(host()), any::<u64>()), 0..4);
    let have = (task(), length(), runs(), fed).prop_map(|(task, length, runs, fed)| Have {
        task,
        length,
        runs,
        fed,
    });
    prop_oneof![
        hello().prop_map(NodeMessage::Hello),
        prop::collection::vec(held(), 0..4).prop_map(NodeMessage::Announce),
        want().prop_map(NodeMessage::Want),
        task().prop_map(NodeMessage::Unwant),
        have.prop_map(NodeMessage::Have),
        (task(), runs()).prop_map(|(task, runs)| NodeMessage::Withdraw(task, runs)),
        links.prop_map(NodeMessage::Links),
        lease_ended().prop_map(NodeMessage::LeaseEnded),
        failed().prop_map(NodeMessage::Failed),
        load().prop_map(NodeMessage::Load),
    ]
}

fn parents() -> impl Strategy<Value = Parents> {
    let parent =
        (host(), address(), any::<bool>(), -1e3..1e3).prop_map(|(host, address, seed, score)| Parent {
            host,
            address,
            seed,
            score,
        });
    (
        task(),
        prop::option::of(length()),
        prop::collection::vec(parent, 0..4),
    )
        .prop_map(|(task, length, parents)| Parents {
            task,
            length,
            parents,
        })
}

fn scheduler_message() -> impl Strategy<Value = SchedulerMessage> {
    let ring = || prop::collection::vec(address(), 0..4);
    let welcome =
        (any::<u32>(), ring(), any::<u64>()).prop_map(|(wire_version, schedulers, incarnation)| Welcome {
            wire_version,
            schedulers,
            incarnation,
        });
    let lease = (
        task(),
        origin(),
        any::<u64>(),
        prop::option::of(length()),
        runs(),
        runs(),
        any::<bool>(),
    )
        .prop_map(
            |(task, origin, epoch, length, runs, first, on_demand)| SourceLease {
                task,
                origin,
                epoch,
                length,
                runs,
                first,
                on_demand,
            },
        );
    let links = (states(), length(), 0u32..1000, any::<bool>()).prop_map(
        |((task, states), length, first_border, trusted)| KnownLinks {
            task,
            length,
            first_border,
            states,
            trusted,
        },
    );
    let redirect = (task(), address(), ring()).prop_map(|(task, scheduler, schedulers)| Redirect {
        task,
        scheduler,
        schedulers,
    });
    prop_oneof![
        welcome.prop_map(SchedulerMessage::Welcome),
        parents().prop_map(SchedulerMessage::Parents),
        lease.prop_map(SchedulerMessage::SourceLease),
        (task(), any::<u64>()).prop_map(|(task, epoch)| SchedulerMessage::LeaseRevoked(task, epoch)),
        links.prop_map(SchedulerMessage::Links),
        (
            task(),
            length(),
            prop::collection::vec((0u32..1000, any::<u8>()), 0..4)
        )
            .prop_map(|(task, length, sums)| {
                let sums = sums
                    .into_iter()
                    .map(|(piece, byte)| (piece, Digest::of(Algorithm::Sha256, &[byte])));
                SchedulerMessage::Attestations(task, length, sums.collect())
            }),
        (task(), "[ -~]{0,40}").prop_map(|(task, reason)| SchedulerMessage::GoAlone(task, reason)),
        task().prop_map(SchedulerMessage::Drop),
        redirect.prop_map(SchedulerMessage::Redirect),
        (task(), 0u32..1000).prop_map(|(task, border)| SchedulerMessage::SendLinks(task, border)),
        task().prop_map(SchedulerMessage::ForgetLinks),
    ]
}

proptest! {
    #[test]
    fn node_messages_come_back(message in node_message()) {
        let bytes = pb::NodeMessage::from(message.clone()).encode_to_vec();
        let back = NodeMessage::try_from(pb::NodeMessage::decode(bytes.as_slice()).unwrap());
        prop_assert_eq!(back, Ok(message));
    }

    #[test]
    fn scheduler_messages_come_back(message in scheduler_message()) {
        let bytes = pb::SchedulerMessage::from(message.clone()).encode_to_vec();
        let back = SchedulerMessage::try_from(pb::SchedulerMessage::decode(bytes.as_slice()).unwrap());
        prop_assert_eq!(back, Ok(message));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = pb::NodeMessage::decode(bytes.as_slice()).map(NodeMessage::try_from);
        let _ = pb::SchedulerMessage::decode(bytes.as_slice()).map(SchedulerMessage::try_from);
    }

    #[test]
    fn no_changed_byte_makes_it_panic(message in node_message(), at in any::<prop::sample::Index>(), value in any::<u8>()) {
        let mut bytes = pb::NodeMessage::from(message).encode_to_vec();
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let _ = pb::NodeMessage::decode(bytes.as_slice()).map(NodeMessage::try_from);
    }
}

fn a_task() -> String {
    format!("sha256:{}", "ab".repeat(32))
}

fn node(message: pb::node_message::Message) -> Result<NodeMessage, ConvertError> {
    pb::NodeMessage {
        message: Some(message),
    }
    .try_into()
}

fn said(message: pb::scheduler_message::Message) -> Result<SchedulerMessage, ConvertError> {
    pb::SchedulerMessage {
        message: Some(message),
    }
    .try_into()
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, ConvertError>, text: &str) {
    let error = result.unwrap_err().to_string();
    assert!(error.contains(text), "{error:?} does not say {text:?}");
}

#[test]
fn an_unknown_kind_of_message_is_told_apart_from_a_wrong_one() {
    let nothing = pb::NodeMessage { message: None };
    assert_eq!(NodeMessage::try_from(nothing), Err(ConvertError::UnknownMessage));
    let status = tonic::Status::from(ConvertError::Missing { field: "origin" });
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert_eq!(status.message(), "origin is missing");
}

#[test]
fn runs_are_bounded() {
    let have = |runs| {
        node(pb::node_message::Message::Have(pb::Have {
            task: a_task(),
            runs,
            ..Default::default()
        }))
    };
    let run = |first, count| pb::PieceRun { first, count };
    assert!(have(vec![run(0, PieceLayout::PIECES_MAX)]).is_ok());
    refused(have(vec![run(1, PieceLayout::PIECES_MAX)]), "more than 1048576");
    refused(have(vec![run(u32::MAX, u32::MAX)]), "have.runs");
    refused(have(vec![run(3, 0)]), "a run without pieces");
    refused(have(vec![run(0, 1); RUNS_MAX + 1]), "more than 65536");
}

#[test]
fn states_are_bounded_and_whole() {
    let links = |first_border, bytes| {
        node(pb::node_message::Message::Links(pb::Links {
            task: a_task(),
            first_border,
            states: vec![0; bytes],
            ..Default::default()
        }))
    };
    assert!(links(0, 32 * STATES_MAX).is_ok());
    refused(links(0, 33), "not a multiple of 32");
    refused(links(0, 32 * STATES_MAX + 1), "states");
    refused(links(PieceLayout::PIECES_MAX, 32), "states");
    refused(links(u32::MAX, 0), "links.first_border");
}

#[test]
fn lists_and_texts_are_bounded() {
    use pb::node_message::Message as Node;
    use pb::scheduler_message::Message as Said;
    let held = pb::Held {
        task: a_task(),
        ..Default::default()
    };
    refused(
        node(Node::Announce(pb::Announce {
            held: vec![held; HELD_MAX + 1],
        })),
        "announce.held",
    );
    refused(
        node(Node::Have(pb::Have {
            task: a_task(),
            fed: vec![pb::Fed::default(); SOURCES_MAX + 1],
            ..Default::default()
        })),
        "have.fed",
    );
    refused(
        node(Node::Load(pb::Load {
            costs: vec![pb::PieceCost::default(); SOURCES_MAX + 1],
            ..Default::default()
        })),
        "load.costs",
    );
    refused(
        said(Said::Parents(pb::Parents {
            task: a_task(),
            parents: vec![pb::Parent::default(); PARENTS_MAX + 1],
            ..Default::default()
        })),
        "parents",
    );
    refused(
        said(Said::Welcome(pb::Welcome {
            schedulers: vec!["a:1".into(); SCHEDULERS_MAX + 1],
            ..Default::default()
        })),
        "welcome.schedulers",
    );
    refused(
        said(Said::GoAlone(pb::GoAlone {
            task: a_task(),
            reason: "x".repeat(TEXT_BYTES_MAX + 1),
        })),
        "go_alone.reason",
    );
}

#[test]
fn numbers_and_names_are_checked() {
    use pb::node_message::Message as Node;
    let load = |nanos_per_byte| {
        node(Node::Load(pb::Load {
            costs: vec![pb::PieceCost {
                parent: "a".into(),
                nanos_per_byte,
                pieces: 1,
            }],
            ..Default::default()
        }))
    };
    assert!(load(0.0).is_ok());
    for bad in [f64::NAN, f64::INFINITY, -0.1] {
        refused(load(bad), "nanos_per_byte");
    }
    let hello = |address: &str, host: &str| {
        node(Node::Hello(pb::Hello {
            host: host.into(),
            address: address.into(),
            ..Default::default()
        }))
    };
    assert!(hello("[::1]:4000", "a").is_ok());
    for bad in ["", "a", "a:", ":1", "a:0", "a:99999", "a b:1", "a\n:1"] {
        refused(hello(bad, "a"), "hello.address");
    }
    refused(hello("a:1", "<b>"), "hello.host");
    refused(
        node(Node::Have(pb::Have {
            task: a_task(),
            length: u64::MAX,
            ..Default::default()
        })),
        "length",
    );
    refused(node(Node::Unwant(pb::Unwant { task: "../x".into() })), "task");
}

#[test]
fn unknown_enum_values_become_the_mildest_or_are_refused() {
    use pb::node_message::Message as Node;
    let hello = pb::Hello {
        host: "a".into(),
        address: "a:1".into(),
        role: 99,
        ..Default::default()
    };
    assert!(matches!(node(Node::Hello(hello)), Ok(NodeMessage::Hello(hello)) if hello.role == Role::Peer));
    let ended = pb::LeaseEnded {
        task: a_task(),
        outcome: 99,
        ..Default::default()
    };
    assert!(
        matches!(node(Node::LeaseEnded(ended)), Ok(NodeMessage::LeaseEnded(e)) if e.outcome == LeaseOutcome::Failed)
    );
    let failed = pb::Failed {
        task: a_task(),
        parent: "a".into(),
        reason: 99,
        ..Default::default()
    };
    assert!(
        matches!(node(Node::Failed(failed)), Ok(NodeMessage::Failed(f)) if f.reason == FailureReason::Refused)
    );
    let origin = pb::Origin {
        registry: "a".into(),
        repository: "b".into(),
        kind: 99,
        digest: a_task(),
    };
    let mut want = pb::Want {
        task: a_task(),
        ..Default::default()
    };
    refused(node(Node::Want(want.clone())), "origin is missing");
    want.origin = Some(origin);
    refused(node(Node::Want(want)), "unknown kind 99");
}

#[test]
fn likely_bytes_of_nodes_read_back() {
    darter_testkit::fuzz::check("node_message", fuzz_node_message);
}

#[test]
fn likely_bytes_of_schedulers_read_back() {
    darter_testkit::fuzz::check("scheduler_message", fuzz_scheduler_message);
}
