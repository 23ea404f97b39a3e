//! Writes a trace as Perfetto's protobuf packets. All packets are one sequence; strings that repeat are interned.

use super::proto::{self, DebugAnnotation, InternedData, InternedString, TracePacket, TrackDescriptor, TrackEvent};
use super::{Clock, Sink, Slice};
use prost::Message;
use std::collections::BTreeMap;
use std::io::{self, Write};

/// The one sequence of packets.
const SEQUENCE: u32 = 1;

/// Writes packets.
pub(super) struct Writer<'a> {
    out: &'a mut dyn Write,
    clock: Clock,
    /// Whether a packet was written.
    begun: bool,
    /// Number of the last track.
    last: u64,
    /// The track of the chip that tracks belong to.
    chip: u64,
    /// Tracks of that chip.
    siblings: i32,
    /// Whether the counter counts bytes, which are whole.
    whole: bool,
    categories: Interned,
    names: Interned,
    keys: Interned,
    texts: Interned,
}

/// Strings by number, from 1.
#[derive(Default)]
struct Interned {
    known: BTreeMap<String, u64>,
    new: Vec<InternedString>,
}

impl Interned {
    fn id(&mut self, text: &str) -> u64 {
        if let Some(&id) = self.known.get(text) {
            return id;
        }
        let iid = self.known.len() as u64 + 1;
        self.known.insert(text.to_owned(), iid);
        let text = text.to_owned();
        self.new.push(InternedString { iid, text });
        iid
    }
}

impl<'a> Writer<'a> {
    pub(super) fn new(out: &'a mut dyn Write, clock: Clock) -> Writer<'a> {
        Writer {
            out,
            clock,
            begun: false,
            last: 0,
            chip: 0,
            siblings: 0,
            whole: false,
            categories: Interned::default(),
            names: Interned::default(),
            keys: Interned::default(),
            texts: Interned::default(),
        }
    }

    /// Writes a packet as field 1 of the trace, with the strings that were interned since the last one.
    fn packet(&mut self, mut packet: TracePacket) -> io::Result<()> {
        let new = InternedData {
            event_categories: std::mem::take(&mut self.categories.new),
            event_names: std::mem::take(&mut self.names.new),
            debug_annotation_names: std::mem::take(&mut self.keys.new),
            debug_annotation_string_values: std::mem::take(&mut self.texts.new),
        };
        packet.interned_data = (new != InternedData::default()).then_some(new);
        packet.trusted_packet_sequence_id = SEQUENCE;
        packet.sequence_flags = if self.begun {
            proto::NEEDS_STATE
        } else {
            proto::STATE_CLEARED
        };
        self.begun = true;
        let mut bytes = Vec::with_capacity(packet.encoded_len() + 8);
        prost::encoding::message::encode(1, &packet, &mut bytes);
        self.out.write_all(&bytes)
    }

    fn event(&mut self, cycle: u64, event: TrackEvent) -> io::Result<()> {
        self.packet(TracePacket {
            timestamp: Some(self.clock.nanoseconds(cycle)),
            track_event: Some(event),
            ..TracePacket::default()
        })
    }

    /// Declares a track of the chip.
    fn child(&mut self, name: &str, counter: Option<proto::CounterDescriptor>) -> io::Result<()> {
        self.last += 1;
        self.siblings += 1;
        self.packet(TracePacket {
            track_descriptor: Some(TrackDescriptor {
                uuid: self.last,
                name: Some(name.to_owned()),
                parent_uuid: Some(self.chip),
                counter,
                sibling_order_rank: Some(self.siblings),
                ..TrackDescriptor::default()
            }),
            ..TracePacket::default()
        })
    }

    fn annotations(&mut self, slice: &Slice<'_>) -> Vec<DebugAnnotation> {
        let args = &slice.args;
        let mut all = Vec::with_capacity(10);
        let mut text = |keys: &mut Interned, key: &str, value: String| {
            all.push(DebugAnnotation {
                name_iid: keys.id(key),
                string_value: Some(value),
                ..DebugAnnotation::default()
            });
        };
        text(&mut self.keys, "instruction", args.instruction.clone());
        text(&mut self.keys, "chain", format!("h{}", args.chain));
        if let Some((address, value)) = &args.memory {
            text(&mut self.keys, "address", address.clone());
            text(&mut self.keys, "value", format!("v{value}"));
        }
        let numbers = [
            ("cycle", slice.start),
            ("end_cycle", slice.end),
            ("issues", args.issues),
        ];
        for (key, value) in numbers {
            all.push(DebugAnnotation {
                name_iid: self.keys.id(key),
                uint_value: Some(value),
                ..DebugAnnotation::default()
            });
        }
        for (key, value) in [("op", args.op.to_owned()), ("nodes", args.nodes.join(", "))] {
            if !value.is_empty() {
                all.push(DebugAnnotation {
                    name_iid: self.keys.id(key),
                    string_value_iid: Some(self.texts.id(&value)),
                    ..DebugAnnotation::default()
                });
            }
        }
        all
    }
}

impl Sink for Writer<'_> {
    fn chip(&mut self, chip: u16, name: &str, labels: &[String]) -> io::Result<()> {
        self.last += 1;
        self.chip = self.last;
        self.siblings = 0;
        self.packet(TracePacket {
            track_descriptor: Some(TrackDescriptor {
                uuid: self.last,
                process: Some(proto::ProcessDescriptor {
                    // Process 0 is the idle one.
                    pid: i32::from(chip) + 1,
                    process_name: name.to_owned(),
                    process_labels: labels.to_vec(),
                }),
                child_ordering: Some(proto::ORDER_EXPLICIT),
                ..TrackDescriptor::default()
            }),
            ..TracePacket::default()
        })
    }

    fn track(&mut self, name: &str) -> io::Result<()> {
        self.child(name, None)
    }

    fn slice(&mut self, slice: &Slice<'_>) -> io::Result<()> {
        let begin = TrackEvent {
            kind: proto::SLICE_BEGIN,
            track_uuid: self.last,
            category_iids: vec![self.categories.id(slice.unit)],
            name_iid: Some(self.names.id(&slice.name)),
            flow_ids: slice.departs.to_vec(),
            terminating_flow_ids: slice.arrives.into_iter().collect(),
            debug_annotations: self.annotations(slice),
            ..TrackEvent::default()
        };
        self.event(slice.start, begin)?;
        let end = TrackEvent {
            kind: proto::SLICE_END,
            track_uuid: self.last,
            ..TrackEvent::default()
        };
        self.event(slice.end, end)
    }

    fn counter(&mut self, name: &str, unit: &str) -> io::Result<()> {
        self.whole = unit == "bytes";
        let counter = proto::CounterDescriptor {
            unit: self.whole.then_some(proto::UNIT_SIZE_BYTES),
            unit_name: (!self.whole).then(|| unit.to_owned()),
        };
        self.child(name, Some(counter))
    }

    fn sample(&mut self, cycle: u64, value: f64) -> io::Result<()> {
        let event = TrackEvent {
            kind: proto::COUNTER,
            track_uuid: self.last,
            counter_value: self.whole.then_some(value as i64),
            double_counter_value: (!self.whole).then_some(value),
            ..TrackEvent::default()
        };
        self.event(cycle, event)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
