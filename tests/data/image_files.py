"""Images as the bytes of a file, and as the zip that EDM's tools write."""

import io
import json
import zipfile

from PIL import Image


def encode(image, format, **options):
    out = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(out, format=format, **options)
    return out.getvalue()


def edm_zip(path, pixels, labels=..., name='00000/img{:08d}.png'):
    with zipfile.ZipFile(path, 'w') as z:
        for i, image in enumerate(pixels):
            z.writestr(name.format(i), encode(image, 'PNG'))
        if labels is not ...:
            z.writestr('dataset.json', labels if isinstance(labels, str) else json.dumps({'labels': labels}))
    return path
