"""The golden probe through the encoded path: the same map as PNG files, the same picture as a PNG
file back.
"""

from __future__ import annotations

from sceneloom.errors import ImageReadError, ModelFailedError
from sceneloom.maps import instance_map_png, label_map_png
from sceneloom.pictures import decode_picture
from sceneloom.triton.encoded import EncodedClient
from sceneloom.triton.grpc_transport import GrpcTransport
from sceneloom.triton.transport import Timeouts
from sceneloom_serving.golden import Golden, check_picture


def check_encoded_path(url: str, golden: Golden, engine: str, timeouts: Timeouts) -> float:
    """Prove the encoded path of a server with a real inference.

    Args:
        url: ``HOST:PORT`` of its gRPC port.
        golden: of the bundle that is served.
        engine: name of the engine behind it, for the tolerance.
        timeouts: how long to wait.

    Returns:
        the largest difference of a block's mean, in grey levels.

    Raises:
        ModelNotFoundError: it does not serve the encoded path.
        ModelFailedError: the picture is not the one that was exported.
        ServingError: there was no picture.
    """
    transport = GrpcTransport(url)
    try:
        client = EncodedClient(transport, timeouts=timeouts)
        labels, instances = golden.label_map, golden.instance_map
        file = client.synthesize(
            label_map_png(client.contract, labels),
            None if instances is None else instance_map_png(client.contract, labels, instances),
            golden.style,
        )
    finally:
        transport.close()
    try:
        image = decode_picture(file)
    except ImageReadError as error:
        raise ModelFailedError(f"{url}: the encoded path's answer: {error}") from None
    if image.shape != (*labels.shape, 3):
        raise ModelFailedError(
            f"{url}: the encoded path answered a picture {list(image.shape)} to maps "
            f"{list(labels.shape)}"
        )
    return check_picture(image, golden, engine)
