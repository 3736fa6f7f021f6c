"""Documents of runs for the hook, and what its queue makes of them."""

from __future__ import annotations

import event_model

from quietbeam.beamline.plans import tomo_fly_scan

FRAMES = {"num_darks": 2, "num_flats": 2, "out_of_beam": 20.0, "exposure": 0.001}
SHAPE = [1, 4, 6]


def documents(streams=("dark", "flat", "primary"), frames=3, status="success", **metadata):
    """Documents of a run that streams frames."""
    run = event_model.compose_run(metadata=metadata)
    yield "start", run.start_doc
    for stream in streams:
        keys = {"camera": {"shape": SHAPE, "dtype": "array", "source": "sim", "external": "STREAM:"}}
        descriptor = run.compose_descriptor(name=stream, data_keys=keys)
        yield "descriptor", descriptor.descriptor_doc
        resource = run.compose_stream_resource(
            data_key="camera", mimetype="application/x-hdf5", uri="file://localhost/a.h5", parameters={"dataset": "/d"}
        )
        yield "stream_resource", resource.stream_resource_doc
        bounds = {"start": 0, "stop": frames}
        numbers = {"start": 1, "stop": frames + 1}
        yield (
            "stream_datum",
            resource.compose_stream_datum(bounds, numbers, descriptor=descriptor.descriptor_doc),
        )
    if status is not None:
        yield "stop", run.compose_stop(exit_status=status)


def tell(hook, documents, *, flush=True):
    """Give documents to a hook, and wait until the queue has them; the uid of the first."""
    uid = None
    for name, doc in documents:
        uid = uid or doc["uid"]
        hook(name, doc)
    assert not flush or hook.flush()
    return uid


def keys(queue):
    return [job.key for job in reversed(queue.jobs())]


def scan(station, num=4, **settings):
    """Scan on the fly, a moment long."""
    return tomo_fly_scan(station.detector, station.rotation, station.x, station.shutter, num=num, **FRAMES, **settings)
