"""A garment that a person wears: its parts in a frame, and where hands can take hold of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.sparse import csr_matrix, vstack
from scipy.spatial import cKDTree

from models.perception.mesh_render import vertex_normals
from pipelines.studio.body.rig import Posed, Rig, Shape
from pipelines.studio.cloth import Anchor, ClothState, Label, Part
from pipelines.studio.garments import trim
from pipelines.studio.garments.collar import make_collar, neck_loop
from pipelines.studio.garments.cut import Cloth, cut_top
from pipelines.studio.garments.deform import Sheet
from pipelines.studio.garments.drape import Drape, Worn
from pipelines.studio.garments.folds import make_folds
from pipelines.studio.garments.holds import Holds
from pipelines.studio.garments.inner import INNER, InnerShirt
from pipelines.studio.garments.lower import LowerClothes
from pipelines.studio.garments.mannequin import mannequin_of
from pipelines.studio.garments.opening import Split, on_halves
from pipelines.studio.garments.sleeve import Sleeve
from pipelines.studio.garments.spec import GarmentSpec
from pipelines.studio.garments.tubes import hem_height
from pipelines.studio.garments.unwrap import CHEST_UV, TEXTURE_M, unwrap
from pipelines.studio.garments.yoke import along_arm, neckline
from pipelines.studio.garments.zipper import Zip

FABRIC, TRIM = "garment", "garment_trim"
"""Names of textures."""
_COLLAR_UV = (0.03, 0.80)
_SKIN_GAP_M = 0.0045
_TOOTH_M = 0.004
_TEXTURE_PIXELS = 512
_WHITE = 235


class Garment:
    """One garment on one person.

    Attributes:
        spec: What it is like.
        hem_z: Height of its hem at rest, metres.
        faces: (F, 3) int32 of its outer cloth.
        covered: (F,) bool over the rig's faces: those that it hides whatever is done to it.
    """

    def __init__(self, rig: Rig, shape: Shape, spec: GarmentSpec):
        self.rig, self.shape, self.spec = rig, shape, spec
        m = self._mannequin = mannequin_of(rig, shape)
        cloth = cut_top(m, spec)
        line = cloth.centre
        _, flat, uv = unwrap(m, cloth)
        self.hem_z = hem_height(m, spec)
        self._top_z = float(cloth.vertices[neck_loop(cloth)[0], 2])
        split = Split(cloth, line if spec.opens else line[:0])
        self.faces = split.faces
        self._count = len(split.origin)
        # What is drawn: a vertex of the cloth once for each place in the texture that it has.
        keys = flat.astype(np.int64).ravel() * self._count + self.faces.ravel()
        _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        self._drawn, self._drawn_uv = self.faces.ravel()[first], uv[flat.ravel()[first]]
        self._drawn_faces = inverse.reshape(-1, 3).astype(np.int32)
        uv_of = np.zeros((self._count, 2), np.float32)
        uv_of[self._drawn] = self._drawn_uv
        self._collar = make_collar(m, spec, cloth) if spec.neck in ("collar", "band") else None
        self._foot = None if self._collar is None else on_halves(self._collar, line, self._count, spec.opens)
        self._drape = self._draped(cloth, split)
        normals = self._drape.normals[: self._count].astype(float)
        self._rims, at = trim.make_rims(normals, self.faces, self._drawn_faces)
        self._rim_uv = self._drawn_uv[at]
        self._sleeves = {side: Sleeve(m, side, cloth, spec) for side in cloth.sleeves}
        self._zip = Zip(split.copies, self._drape.rest[: self._count].astype(float), normals) if spec.opens else None
        self._inner = InnerShirt(m, spec) if spec.opens else None
        self._trims = self._make_trims(line, normals, uv_of)
        self._holds = Holds(m, self._drape, self._count, self.hem_z, self._collar, self._foot, self._sleeves, self._zip)
        self.covered = self._covered(cloth)

    @property
    def category(self) -> str:
        """Its category in try-on data sets."""
        return self.spec.category

    def worn(self, posed: Posed, state: ClothState) -> Worn:
        """All of its cloth in a frame."""
        state = self._possible(state)
        n, rest = self._count, self._drape.rest
        if self._collar is not None:
            rest = np.concatenate([rest[:n], self._collar.at(state.collar_turn)])
        x = self._drape.acted(posed, state, rest)
        if self._foot is not None:
            x[n:] += self._foot @ (x[:n] - self._drape.rest[:n])
        worn = self._drape.pose(posed, x)
        for side, sleeve in self._sleeves.items():
            sleeve.roll(worn, self._drape.normals, state.sleeve_roll.get(side, 0.0))
        return worn

    def parts(self, posed: Posed, state: ClothState) -> list[Part]:
        """Everything of it in a frame, ready to be drawn."""
        worn = self.worn(posed, state)
        out = [
            self._part(self.spec.kind, worn.vertices[self._drawn], self._drawn_faces, self._drawn_uv),
            self._part("rims", self._rims.vertices(worn), self._rims.faces, self._rim_uv),
        ]
        if self._collar is not None:
            uv = (_COLLAR_UV + self._collar.uv_m / TEXTURE_M).astype(np.float32)
            out.append(self._part("collar", worn.vertices[self._count :], self._collar.faces, uv))
        for name, piece, uv, texture in self._trims:
            out.append(self._part(name, piece.vertices(worn), piece.faces, uv, texture))
        for side, sleeve in self._sleeves.items():
            cuff = sleeve.cuff(worn, self._drape.normals, state.sleeve_roll.get(side, 0.0))
            if cuff is not None:
                out.append(self._part(f"{side} cuff", cuff, sleeve.faces, sleeve.uv))
        if self._zip is not None:
            slider = self._zip.slider(self._drape, worn, state.zip_open)
            uv = np.full((len(slider), 2), 0.5, np.float32)
            out.append(self._part("slider", slider, self._zip.faces, uv, TRIM))
        if self._inner is not None:
            out.append(self._inner.part(posed))
        return out

    def surface(self, posed: Posed, state: ClothState) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Vertices (N, 3), unit normals (N, 3) and faces (F, 3) of its outer cloth in a frame."""
        worn = self.worn(posed, state)
        return worn.vertices[: self._count], worn.turned(self._drape.normals, np.arange(self._count)), self.faces

    def anchor(self, name: str, side: str, posed: Posed, state: ClothState) -> Anchor:
        """Where a hand can take hold of it.

        Args:
            name: zip (its slider), hem, stretch (a place to pinch), collar or cuff (the end of that side's sleeve).
            side: left or right: the person's side of the garment.
            posed: The pose.
            state: What is done to it.

        Raises:
            ValueError: The garment has no such thing.
        """
        try:
            return self._holds.anchor(name, side, posed, self._possible(state))
        except KeyError as error:
            raise ValueError(f"a {self.spec.kind} has no {error.args[0]}") from None

    def textures(
        self, photos: str | None = None, plain: bool = False, white_beneath: bool = False
    ) -> dict[str, np.ndarray]:
        """Textures of all of its parts.

        Args:
            photos: Folder to cut fabrics from.
            plain: Cloth of one colour without prints, whatever the garment's fabric.
            white_beneath: White cloth beneath a garment that opens.

        Returns:
            Name -> (h, w, 3) uint8 RGB.
        """
        # The renderer is heavy, and nothing else here needs it.
        from pipelines.studio.render.fabrics import cut_fabric, make_fabric, photo_fabrics

        rng = np.random.default_rng([self.spec.seed, 11])
        out = {}
        for name in (FABRIC, INNER) if self._inner is not None else (FABRIC,):
            if plain:
                out[name] = make_fabric(rng, "plain", printed=False)
            elif photos is None:
                out[name] = make_fabric(rng, self.spec.fabric if name == FABRIC else None)
            else:
                found = photo_fabrics(photos)
                out[name] = cut_fabric(rng, found[int(rng.integers(len(found)))])
        if white_beneath and INNER in out:
            # In place of a fabric that was made all the same: everything else looks as it does without.
            out[INNER] = np.full((_TEXTURE_PIXELS, _TEXTURE_PIXELS, 3), _WHITE, np.uint8)
        metal = rng.choice(np.array([[176, 178, 182], [60, 60, 64], [190, 160, 90], [235, 235, 232]]))
        # Down the zip, teeth and the gaps between them.
        tooth = (np.arange(_TEXTURE_PIXELS) * TEXTURE_M / _TEXTURE_PIXELS / _TOOTH_M % 1 < 0.5)[:, None, None]
        out[TRIM] = np.broadcast_to(np.where(tooth, metal, metal * 0.55), (_TEXTURE_PIXELS, 16, 3)).astype(np.uint8)
        return out

    def _possible(self, state: ClothState) -> ClothState:
        """The state without what cannot be done to this garment."""
        return state if self.spec.opens else replace(state, zip_open=0.0)

    def _part(self, name: str, vertices: np.ndarray, faces: np.ndarray, uv: np.ndarray, texture: str = FABRIC) -> Part:
        gloss = 0.6 if texture == TRIM else self.spec.gloss
        return Part(vertices, faces, uv, texture, Label.GARMENT, name != "slider", gloss, name)

    # --- making ---

    def _draped(self, cloth: Cloth, split: Split) -> Drape:
        """Cloth and collar as one, ready to be posed."""
        m, spec, origin = self._mannequin, self.spec, split.origin
        rest = cloth.vertices[origin]
        normals = vertex_normals(cloth.vertices, cloth.faces)[origin]
        weights = cloth.weights[origin]
        beneath, out, below = cloth.beneath[origin], cloth.normals[origin], cloth.body_weights[origin]
        # Below the waist there are other clothes beneath.
        low = rest[:, 2] < m.waist_z + 0.06
        margin = np.where(low, LowerClothes.THICK_M + 0.003, _SKIN_GAP_M)
        margin[cloth.clearance[origin] <= 0] = -np.inf
        arm, side = cloth.arm[origin], split.side
        folds = make_folds(m, spec, cloth)
        fields = folds.fields[origin]
        if self._collar is not None:
            # It stands on the cloth: no body keeps it out, it has no folds, and no action of its own but its turn.
            key, k = self._collar.keys[0], len(self._collar.side)
            up = np.tile([0.0, 0.0, 1.0], (k, 1))
            rest, normals, weights = (
                np.concatenate([rest, key]),
                np.concatenate([normals, up]),
                csr_matrix(vstack([weights, self._collar.weights])),
            )
            beneath, out = np.concatenate([beneath, key]), np.concatenate([out, up])
            below = csr_matrix(vstack([below, self._collar.weights]))
            margin, arm = np.append(margin, np.full(k, -np.inf)), np.append(arm, np.zeros(k))
            side = np.append(side, self._collar.side)
            fields = np.concatenate([fields, np.zeros((k, fields.shape[1]), np.float32)])
        moves = np.arange(len(rest)) < self._count
        sheet = Sheet.make(m, rest, normals, side, arm, self.hem_z, self._top_z, moves)
        if spec.opens:
            sheet = replace(sheet, gap_m=2 * sheet.gap_m)
        # A sleeve hangs down from the arm, whichever way that points.
        sag = np.where(arm != 0, 0.35 * spec.sleeve_ease_m, 0.0)
        body = (beneath, out, below)
        return Drape.make(self.rig, rest, normals, weights, body, margin, sheet, replace(folds, fields=fields), sag)

    def _make_trims(
        self, line: np.ndarray, normals: np.ndarray, uv_of: np.ndarray
    ) -> list[tuple[str, trim.Trim, np.ndarray, str]]:
        vertices = self._drape.rest[: self._count].astype(float)

        def on_fabric(piece: trim.Trim) -> np.ndarray:
            uv = uv_of[piece.source] + piece.uv_shift / TEXTURE_M
            uv[:, 0] = CHEST_UV[0] + piece.uv_shift[:, 0] / TEXTURE_M
            return uv.astype(np.float32)

        def on_metal(piece: trim.Trim) -> np.ndarray:
            down = (self._top_z - vertices[piece.source, 2]) / TEXTURE_M
            return np.stack([np.full(len(down), 0.5), np.clip(down, 0, 1)], -1).astype(np.float32)

        if self._zip is not None:
            return [
                (
                    f"{side} {name}",
                    t,
                    on_metal(t) if name == "teeth" else on_fabric(t),
                    TRIM if name == "teeth" else FABRIC,
                )
                for (side, name), t in self._zip.tapes.items()
            ]
        if self.spec.neck != "collar":
            return []
        placket = trim.make_ribbon(line, vertices, normals, -0.016, 0.016, 0.0016)
        buttons = trim.make_buttons(line, vertices, normals, 0.088, 0.0058)
        plain = np.full((len(buttons.source), 2), 0.5, np.float32)
        return [("placket", placket, on_fabric(placket), FABRIC), ("buttons", buttons, plain, TRIM)]

    def _covered(self, cloth: Cloth) -> np.ndarray:
        m, v = self._mannequin, self.shape.vertices
        hidden = np.zeros(len(v), bool)
        # Well inside of every edge that shows what is beneath, lifted hems and rolled sleeves too.
        lift = 0.04 if self.spec.opens else 0.30
        trunk = (v[:, 2] > self.hem_z + lift) & (v[:, 2] < m.neck_z - 0.03) & (m.head_weight < 0.05)
        index = np.flatnonzero(trunk & (m.arm_weight["left"] + m.arm_weight["right"] < 0.3))
        far, _ = cKDTree(cloth.vertices[neck_loop(cloth)]).query(v[index])
        hidden[index] = (far > 0.035) & (neckline(m, self.spec, v[index]) > 0.01)
        for side, sleeve in self._sleeves.items():
            end = min(sleeve.s[-1], sleeve.elbow_s) - 0.045
            hidden |= (m.arm_weight[side] > 0.3) & (along_arm(m, side, v) < end)
        return hidden[self.rig.faces].all(1)
