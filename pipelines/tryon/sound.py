"""The sound of a source video under the picture that was made of it, in step with it."""

from __future__ import annotations

import contextlib
import heapq
import uuid
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import av.error
from av.audio import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Stream

from pipelines.video import VideoReader, probe
from pipelines.video_container import open_container

_SOUND_OF_MP4 = frozenset({"aac", "mp3", "ac3", "opus", "alac"})
_LEAD_S = 0.25
"""Copied packets from before the picture that stay: decoders start on them (Opus wants 80 ms, MP3 packets, AAC one).
They are not heard, the edit list of the mp4 hides them."""
_DAMAGE = (av.error.FFmpegError, OSError)


def with_sound_of(picture: Path, source: Path, output: Path, *, start: int = 0, num_frames: int | None = None) -> Path:
    """A video with the picture of one file and the first sound track of another, the picture not encoded again.

    The tracks of a file may start apart, and players go by the times in it. The picture's clock starts at the source's
    frame `start`, so the sound's does: what is before that frame is cut off, and a sound that begins later begins later
    here, too. Packets are copied; sound that mp4 cannot hold is encoded as AAC. What cannot be read of a damaged
    track is missing.

    Args:
        picture: mp4 without sound, whose first frame is at time 0.
        source: Video that the picture was made of.
        output: mp4 to write.
        start: Frame of the source that the picture begins with.
        num_frames: Frames of the picture. Where the source goes on behind them the sound is cut, to the packet where it
            is copied; by default it is kept to its end.

    Returns:
        The file that holds the result: `output`, or `picture` where there is no sound to add.

    Raises:
        ValueError: The source has no frame `start`.
        pipelines.video.VideoError: The source cannot be read.
    """
    with VideoReader(source) as reader:
        if not reader.info.has_audio:
            return picture
        first = next(iter(reader.frames(start, start + 1)), None)
        if first is None:
            raise ValueError(f"{source.name} has no frame {start}")
        origin = reader.info.start_s + first.time_s
        whole = num_frames is None or start + num_frames >= reader.info.num_frames
    end = None if whole else probe(picture).duration_s
    with open_container(source) as sound_file, open_container(picture) as picture_file:
        track = next((t for t in sound_file.streams.audio if t.codec_context is not None), None)
        if track is None:
            return picture
        temporary = output.with_name(f".{uuid.uuid4().hex}.mp4")
        try:
            with av.open(str(temporary), "w", container_options={"movflags": "faststart"}) as result:
                picture_track = picture_file.streams.video[0]
                seen = _copied(picture_file, picture_track, result.add_stream_from_template(picture_track))
                heard = _sound(sound_file, track, result, origin, end)
                begin = next(heard, None)
                if begin is not None:
                    # In the order of their times, so that neither a player nor the muxer has to hold much.
                    for packet in heapq.merge(chain([begin], heard), seen, key=_time):
                        result.mux(packet)
            if begin is None:
                return picture
            temporary.replace(output)
        finally:
            temporary.unlink(missing_ok=True)
    return output


def _time(packet: Packet) -> float:
    return float((packet.dts or 0) * packet.time_base)


def _sound(
    source: InputContainer, track: AudioStream, result: OutputContainer, origin: float, end: float | None
) -> Iterator[Packet]:
    """Packets of the track for the result, with `origin` seconds of the source's clock as time 0."""
    base = track.time_base or Fraction(1, 1000)
    shift = round(origin / base)
    if track.codec_context.codec.canonical_name in _SOUND_OF_MP4:
        for packet in _copied(source, track, result.add_stream_from_template(track)):
            packet.pts, packet.dts = None if packet.pts is None else packet.pts - shift, (packet.dts or 0) - shift
            starts = _time(packet)
            if end is not None and starts >= end:
                return
            if starts + float((packet.duration or 0) * base) > -_LEAD_S:
                yield packet
        return
    encoder = result.add_stream("aac", rate=track.codec_context.sample_rate)
    graph = av.filter.Graph()
    steps = [
        graph.add_abuffer(template=track),
        # Silence up to a late start and in gaps, and a cut where it starts before the picture.
        graph.add("aresample", "async=1:first_pts=0"),
        *([] if end is None else [graph.add("atrim", f"end={end:.6f}")]),
        graph.add("abuffersink"),
    ]
    graph.link_nodes(*steps).configure()
    for frame in chain(_decoded(source, track), [None]):
        if frame is not None and frame.pts is not None:
            frame.pts -= shift
        graph.push(frame)
        with contextlib.suppress(av.error.BlockingIOError, av.error.EOFError):
            while isinstance(filtered := graph.pull(), av.AudioFrame):
                yield from encoder.encode(filtered)
    yield from encoder.encode(None)


def _decoded(source: InputContainer, track: AudioStream) -> Iterator[av.AudioFrame]:
    for packet in _demuxed(source, track):
        with contextlib.suppress(av.error.InvalidDataError):
            yield from track.codec_context.decode(packet)


def _demuxed(source: InputContainer, track: Stream) -> Iterator[Packet]:
    with contextlib.suppress(*_DAMAGE):
        yield from source.demux(track)


def _copied(source: InputContainer, track: Stream, out: Stream) -> Iterator[Packet]:
    """Packets of a track for a track of the result."""
    for packet in _demuxed(source, track):
        # The last one, which flushes decoders, has no time.
        if packet.dts is not None:
            packet.stream = out
            yield packet
