#!/usr/bin/env python3
"""Parses traces with the schema that Perfetto publishes and compares tracks, slices, durations and flows with the artifact.

    python3 tests/trace_schema.py target/release/lockstep     needs the package `perfetto`; .ci/run installs it
"""

import collections
import json
import pathlib
import subprocess
import sys
import tempfile

from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as schema

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODEL = ROOT / "examples/data/silero-vad/silero_vad_openvino_16k.onnx"
WORDS = {"load.row": "load", "load.col": "load", "mul": "mul", "send": "send", "recv": "recv"}


def check(condition: bool, *what: object) -> None:
    if not condition:
        sys.exit("trace_schema: " + " ".join(map(str, what)))


def fields_known(message: object) -> None:
    """Nothing in the message is unknown to the schema."""
    from google.protobuf import unknown_fields

    check(len(unknown_fields.UnknownFieldSet(message)) == 0, "unknown fields in", message)
    for field, value in message.ListFields():
        if field.message_type is not None:
            for one in value if field.is_repeated else [value]:
                fields_known(one)


class Perfetto:
    """Tracks, slices, flows and counters of a protobuf trace."""

    def __init__(self, path: pathlib.Path) -> None:
        trace = schema.Trace()
        trace.ParseFromString(path.read_bytes())
        names, categories = {}, {}
        tracks = {}
        self.chips, self.slices, self.departs, self.arrives = [], collections.defaultdict(list), {}, {}
        self.counters = collections.defaultdict(list)
        event_type = schema.TrackEvent
        for packet in trace.packet:
            fields_known(packet)
            for one in packet.interned_data.event_names:
                names[one.iid] = one.name
            for one in packet.interned_data.event_categories:
                categories[one.iid] = one.name
            if packet.HasField("track_descriptor"):
                track = packet.track_descriptor
                if track.HasField("process"):
                    self.chips.append(track.process.process_name)
                else:
                    check(track.parent_uuid in tracks, "a track without a process:", track)
                tracks[track.uuid] = track
                continue
            event, at = packet.track_event, packet.timestamp
            track = tracks[event.track_uuid]
            if event.type == event_type.TYPE_SLICE_BEGIN:
                unit = categories[event.category_iids[0]]
                self.slices[track.name].append([names[event.name_iid], unit, at, None])
                for flow in event.flow_ids:
                    self.departs[flow] = track.name
                for flow in event.terminating_flow_ids:
                    self.arrives[flow] = track.name
            elif event.type == event_type.TYPE_SLICE_END:
                self.slices[track.name][-1][3] = at
            else:
                check(event.type == event_type.TYPE_COUNTER and track.HasField("counter"), "an event of no kind:", event)
                self.counters[track.name].append(at)


class Chrome:
    """The same of a JSON trace; times in nanoseconds."""

    def __init__(self, path: pathlib.Path) -> None:
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
        named = [e for e in events if e["name"] == "thread_name"]
        tracks = {(e["pid"], e["tid"]): e["args"]["name"] for e in named}
        self.chips = [e["args"]["name"] for e in events if e["name"] == "process_name"]
        self.slices, self.departs, self.arrives = collections.defaultdict(list), {}, {}
        self.counters = collections.defaultdict(list)
        for e in events:
            if e["ph"] == "C":
                self.counters[e["name"]].append(e["ts"])
                continue
            name = tracks.get((e["pid"], e["tid"]))
            if e["ph"] == "X":
                self.slices[name].append([e["name"], e["cat"], e["ts"] * 1e3, (e["ts"] + e["dur"]) * 1e3])
            elif e["ph"] == "s":
                self.departs[e["id"]] = name
            elif e["ph"] == "f":
                self.arrives[e["id"]] = name


def compare(trace: "Perfetto | Chrome", runs: list, target: dict, makespan: int) -> None:
    clock = target["clock_hz"]
    check(trace.chips == sorted({"c%d" % r["chip"] for r in runs}), "chips", trace.chips)
    wanted = collections.defaultdict(list)
    links = []
    for run in runs:
        mnemonic = run["text"].split(" ")[0]
        word = WORDS.get(mnemonic)
        track = run["queue"] + (" " + word if word else "")
        occupancy = 1
        if word in ("send", "recv"):
            occupancy = target["c2c.cycles_per_word"]
            links.append((word, track))
        elif word == "mul":
            dtype = run["text"].split(" lanes=")[0].split(" ")
            dtype = next(d for d in reversed(dtype) if d in ("f32", "f16", "bf16", "i8", "u8"))
            occupancy = target["mxm.%s.cycles_per_vector" % dtype.replace("u8", "i8")]
        begin, end = run["cycle"], run["last_cycle"] + occupancy
        wanted[track].append(("%s h%d" % (mnemonic, run["chain"]), begin, end))
    check(wanted.keys() == trace.slices.keys(), "tracks differ:", wanted.keys() ^ trace.slices.keys())
    for track, want in wanted.items():
        found = trace.slices[track]
        check(len(want) == len(found), track, "has", len(found), "slices, the artifact", len(want), "runs")
        for (name, begin, end), (name_found, _, at, until) in zip(want, found):
            check(name == name_found, track, name, name_found)
            for cycle, time in ((begin, at), (end, until)):
                check(abs(cycle * 1e9 / clock - time) < 1.001, track, name, "cycle", cycle, "at", time, "ns")
    receives = [track for word, track in links if word == "recv"]
    check(len(receives) > 0 and trace.departs.keys() == trace.arrives.keys(), "flows without an end")
    check(sorted(trace.arrives.values()) == sorted(receives), "flows", len(trace.arrives), "receives", len(receives))
    check(set(trace.departs.values()) == {t for word, t in links if word == "send"}, "flows that no send begins")
    units = ["mem", "mxm_load", "mxm_mul", "vxm", "sxm", "c2c"]
    names = {"SRAM in use"} | {unit + " utilisation" for unit in units}
    check(trace.counters.keys() == names, "counters", trace.counters.keys())
    print("ok: %d tracks, %d slices, %d flows, %d cycles" % (len(wanted), len(runs), len(receives), makespan))


def main() -> None:
    lockstep = pathlib.Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as scratch:

        def run(*args: str) -> str:
            done = subprocess.run([lockstep, *args], cwd=scratch, check=True, capture_output=True, text=True)
            return done.stdout

        run("compile", str(MODEL), "--target", "toy", "--chips", "4", "-o", "vad.lks")
        shown = json.loads(run("inspect", "vad.lks", "--stage", "sched", "--json"))["result"]
        figures = json.loads(run("targets", "show", "toy", "--json"))["figures"]
        target = {f["field"]: json.loads(f["value"]) for f in figures}
        for name, reader in (("vad.pftrace", Perfetto), ("vad.json", Chrome)):
            run("trace", "vad.lks", "-o", name)
            trace = reader(pathlib.Path(scratch) / name)
            compare(trace, shown["runs"], target, shown["makespan_cycles"])


if __name__ == "__main__":
    main()
